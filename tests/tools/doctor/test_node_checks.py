"""Several nodes together: processes of this machine with addresses, clocks and mounts of their own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import support

NODE = """
import json, sys, time
from dataclasses import asdict
index, shared, ahead, wait = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
now = time.time
time.time = lambda: now() + ahead
from launcher.distributed.health_check import Node
from launcher.health.finding import Finding
from launcher.plan.device_facts import Devices
from launcher.tools.doctor import node_checks
from launcher.tools.doctor.request import NodeRequest
request = NodeRequest("cpu", 1, 2, "lo", {"GLOO_SOCKET_IFNAME": "lo"}, shared=shared, wait=wait, seconds=0.05)
node = Node(index, ("127.0.71.1", "127.0.71.2"))
found = [step for step in node_checks.together(request, Devices("cpu", 1, None), node) if isinstance(step, Finding)]
print("found: " + json.dumps([[one.check, one.level, one.found] for one in found]))
"""


def nodes(shared: Path, ahead: float = 0.0, wait: float = 120.0, before: tuple[str, ...] = ()):
    """The findings of two nodes, by check. `ahead`: seconds of the second one's clock. `before`: words before its
    command."""
    words = [sys.executable, "-c", NODE]
    argvs = [[*words, "0", str(shared), "0", str(wait)], [*before, *words, "1", str(shared), str(ahead), str(wait)]]
    processes = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
        for argv in argvs
    ]
    answers = [process.communicate(timeout=400) for process in processes]
    support.needs("namespaces need root" if any("not permitted" in errors for _, errors in answers) else None)
    found = [json.loads(text.partition("found: ")[2] or "null") for text, _ in answers]
    assert None not in found, answers
    return [{check: (level, text) for check, level, text in one} for one in found]


def test_a_clock_10_s_off_is_found_and_all_else_is_sound(tmp_path):
    """Two real nodes with a rank each, from the shared folder to the all-reduce between them: 4 imports of torch."""
    first, second = nodes(tmp_path / "shared", ahead=10.0)
    level, text = first.pop("clocks")
    assert level == "failure" and text.startswith("127.0.71.2: its clock is ") and text.endswith("that of 127.0.71.1")
    assert abs(float(text.split()[4]) - 10) < 4
    assert {first[check][0] for check in ("shared folder", "nodes", "all-reduce")} == {"ok"}, first
    assert set(first) == {"shared folder", "nodes", "matrix product", "all-reduce"}
    assert "1 pair between nodes" in first["all-reduce"][1]
    assert second == {}


def test_a_folder_that_is_not_shared_is_found_by_both(tmp_path):
    """The second node has another disk mounted over the folder."""
    support.needs(None if shutil.which("unshare") and sys.platform == "linux" else "unshare is not installed")
    (tmp_path / "shared").mkdir()
    mount = f'mount -t tmpfs none {tmp_path}/shared && exec "$@"'
    first, second = nodes(tmp_path / "shared" / "x", wait=8, before=("unshare", "--mount", "sh", "-c", mount, "sh"))
    for found, missing in ((first, "127.0.71.2"), (second, "127.0.71.1")):
        assert list(found) == ["shared folder"] and found["shared folder"][0] == "failure"
        assert found["shared folder"][1].startswith(f"{missing} has not shown up in {tmp_path}/shared/x in 8 s")
