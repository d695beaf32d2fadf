"""Findings from the processes of other nodes."""

import json
import sys

from launcher.health.finding import Finding
from launcher.tools.doctor import other_nodes
from launcher.tools.doctor.node_process import MARK

LINE = {"group": "disks", "check": "cache", "level": "ok", "found": "fine", "cure": "", "host": "n1"}


def steps(*bodies, seconds=60.0):
    commands = {f"n{i}": [sys.executable, "-c", body] for i, body in enumerate(bodies, start=1)}
    return list(other_nodes.steps(commands, seconds))


def printing(*lines):
    return f"print({chr(10).join(lines)!r})"


def test_findings_and_steps_arrive_between_lines_of_the_site():
    body = printing(
        "welcome", f"{MARK}{json.dumps({'step': 'disks'})}", f"noise {MARK}{json.dumps(LINE)}", f"{MARK}broken"
    )
    assert steps(body) == ["disks", Finding(**LINE)]


def test_a_node_that_cannot_be_reached_or_dies_is_named_with_its_words():
    unreached = "import sys; sys.stderr.write('ssh: connect to host n1 port 22: No route\\n'); sys.exit(255)"
    died = printing(f"{MARK}{json.dumps(LINE)}") + "; import sys; sys.exit(3)"
    found = [(one.level, one.found) for one in steps(unreached, died) if isinstance(one, Finding) and one.level != "ok"]
    assert found == [
        ("failure", "n1 could not be checked: ssh: connect to host n1 port 22: No route"),
        ("failure", "n2 ended before its checks were done: exit code 3"),
    ]


def test_a_node_that_does_not_end_is_named():
    (found,) = steps("import time; time.sleep(600)", seconds=1)
    assert found.found == "n1 has not ended its checks in 1 s"
