"""Two hosts: a real sshd on the loopback under two names."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import support
from support import slurm_lab

from launcher.config.cluster import Cluster
from launcher.plan.plan import Plan
from launcher.schedulers import JobRequest, ssh

MARK = "# launcher-sshd"


def missing():
    """Why no sshd can be started on this machine, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "two names for the loopback in /etc/hosts need root on Linux"
    absent = [tool for tool in ("sshd", "ssh", "ssh-keygen") if shutil.which(tool, path=PATH) is None]
    return f"{', '.join(absent)} not installed (openssh-server)" if absent else None


PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """The names of an sshd with keys of its own, and the options that ssh needs."""
    support.needs(missing())
    folder, number = tmp_path_factory.mktemp("sshd"), os.getpid() % 250 + 1
    names = [f"ssh{number}-{letter}" for letter in "ab"]
    with slurm_lab._hosts() as lines:
        lines += [f"127.78.{number}.{i} {name} {MARK} {folder}" for i, name in enumerate(names, start=1)]
    port = _free()
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True, timeout=30)
    shutil.copy(folder / "user.pub", folder / "authorized")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.78.{number}.1\nListenAddress 127.78.{number}.2\nHostKey {folder}/host\n"
        f"AuthorizedKeysFile {folder}/authorized\nPidFile {folder}/pid\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin yes\nPasswordAuthentication no\nPrintMotd no\n"
    )
    (folder / "ssh_config").write_text(
        f"Host *\nPort {port}\nIdentityFile {folder}/user\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known\n"
        "StrictHostKeyChecking accept-new\nLogLevel ERROR\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        sshd = subprocess.Popen([shutil.which("sshd", path=PATH), "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        slurm_lab.until(lambda: _listens(names[0], port) and _listens(names[1], port), 20, (folder / "log").read_text())
        yield names, ["-F", str(folder / "ssh_config")]
    finally:
        sshd.terminate()
        sshd.wait(10)
        with slurm_lab._hosts() as lines:
            lines[:] = [line for line in lines if not line.endswith(f"{MARK} {folder}")]


def _free():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _listens(name, port):
    try:
        socket.create_connection((name, port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def here(hosts, workspace):
    """A recipe and a profile of two hosts with a rank each."""
    names, options = hosts
    support.write(support.mlm("two", train__precision="fp64"))
    profile(names, options)
    return names


def profile(names, options, **more):
    support.write(
        {
            "name": "two-hosts", "kind": "ssh", "nodes": 2, "devices_per_node": 1, "device": "cpu",
            "memory_per_device": 4, "env": {"WORD": "it's $(here)"}, "ssh": {"hosts": names, "options": options},
            **more,
        },
        "hosts.yaml",
    )  # fmt: skip


def test_two_hosts_train_what_one_machine_trains(here):
    support.launcher("run", "recipe.yaml", "--ranks", 2, "name=one")
    support.launcher("run", "recipe.yaml", "--cluster", "hosts.yaml")
    one, two = support.steps("runs/one"), support.steps("runs/two")
    assert [r["data"] for r in two.values()] == [r["data"] for r in one.values()]
    assert [r["loss"] for r in two.values()] == pytest.approx([r["loss"] for r in one.values()], rel=1e-13)
    logs = {path.name for path in Path("runs/two/logs").iterdir()}
    assert {"rank0.log", "rank1.log", *(f"node-{name}.log" for name in here)} <= logs


def test_a_host_that_cannot_be_reached_is_named_and_the_other_is_stopped(here, hosts):
    profile([here[0], "nowhere.invalid"], hosts[1])
    begin = time.monotonic()
    done = support.launcher("run", "recipe.yaml", "--cluster", "hosts.yaml", code=69)
    assert "nowhere.invalid cannot be reached, or was lost: ssh: Could not resolve hostname" in done.stderr
    assert time.monotonic() < begin + 60
    assert not support.steps("runs/two")


def test_a_host_without_this_python_is_named(here, hosts):
    profile(here, hosts[1], ssh={"hosts": here, "options": hosts[1], "python": "/no/such/python"})
    done = support.launcher("run", "recipe.yaml", "--cluster", "hosts.yaml", code=69)
    assert f"{here[1]} could not start the launcher, or lost it: " in done.stderr
    assert "/no/such/python" in done.stderr


def test_a_failing_rank_fails_the_run_and_is_reported(here, monkeypatch):
    Path("mine").mkdir()
    Path("mine/burning.py").write_text(
        "from launcher.config.types import Plugin\nfrom typing import Literal\n"
        "class Config(Plugin):\n    kind: Literal['mine.burning'] = 'mine.burning'\n"
        "from launcher import sinks\nclass Sink(sinks.Sink):\n"
        "    def __init__(self, config, about):\n        raise OSError('the disk is on fire')\n"
        "    write = close = print\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    sinks = "sinks=[{kind: mine.burning}]"
    done = support.launcher("run", "recipe.yaml", "--cluster", "hosts.yaml", sinks, code=1)
    assert f"rank 0 on {here[0]} failed" in done.stderr
    assert "the disk is on fire" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1], ids=["INT", "USR1"])
def test_a_signal_saves_on_all_hosts_and_leaves(here, number):
    started = support.start("run", "recipe.yaml", "--cluster", "hosts.yaml", "train.steps=100000")
    support.wait_for_step("runs/two", 3, started)
    os.kill(started.pid, number)
    said = started.communicate(timeout=60)[0]
    assert started.returncode == 75, said
    saved = max(Path("runs/two/checkpoints").glob("step-*"))
    assert (saved / "COMPLETE").exists()
    assert int(saved.name[5:]) == max(support.steps("runs/two"))


@pytest.mark.parametrize("when", ["meeting", "training"])
def test_a_second_ctrl_c_ends_all_hosts_at_once(here, when):
    started = support.start("run", "recipe.yaml", "--cluster", "hosts.yaml", "train.steps=100000")
    if when == "training":
        support.wait_for_step("runs/two", 3, started)
        for rank in _ranks(Path.cwd()):  # those that hang never come to the end of their step
            rank.suspend()
    else:
        slurm_lab.until(lambda: list(Path("runs/two/jobs").glob("*/report-*")), 60, "the agents meet")
    started.send_signal(signal.SIGINT)
    time.sleep(0.3)
    started.send_signal(signal.SIGINT)
    said = started.communicate(timeout=60)[0]
    if when == "training":
        assert (started.returncode, said.count("stopped at once")) == (1, 1), said
    else:  # the hosts may have left already at the first
        assert started.returncode in (1, 75), said
    slurm_lab.until(lambda: _still(Path.cwd()) == [], 60, "the agents have left")


def test_killing_the_launcher_ends_all_hosts(here):
    started = support.start("run", "recipe.yaml", "--cluster", "hosts.yaml", "train.steps=100000")
    support.wait_for_step("runs/two", 3, started)
    support.kill_group(started)
    slurm_lab.until(lambda: _still(Path.cwd()) == [], 60, "the agents have left")
    saved = max(Path("runs/two/checkpoints").glob("step-*"))
    assert (saved / "COMPLETE").exists()


def _ranks(folder):
    """The ranks of a folder's agents: the processes that write into a rank's log."""
    children = [child for agent in _still(folder) for child in psutil.Process(agent).children(recursive=True)]
    return {child for child in children if any("/logs/rank" in file.path for file in child.open_files())}


def _still(folder):
    """Process ids of the agents of a folder that are alive."""
    return [
        p.pid for p in psutil.process_iter(["cmdline"]) if f"{folder}/runs/two" in " ".join(p.info["cmdline"] or [])
    ]


def test_the_command_is_quoted_and_holds_no_secrets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = f"hf_{'aB3' * 12}"
    given = Cluster.model_validate(
        {"kind": "ssh", "nodes": 2, "devices_per_node": 1, "device": "cpu", "memory_per_device": 1,
         "env": {"A": "it's $(b)\\"}, "env_from": ["WANDB_API_KEY", "LAUNCHER_WORD"],
         "ssh": {"hosts": ["me@a", "b"], "python": "/opt/a b/python"}}, context={"stored": True}
    )  # fmt: skip
    here = {
        "OMP_NUM_THREADS": "2",
        "NCCL_API_KEY": "hush",
        "LAUNCHER_credentials": "hush",
        "LAUNCHER_WORD": "hush",
        "HF_TOKEN": "hush",
        "WANDB_API_KEY": "hush",
        "TORCH_X": key,
        "HOME": "/root",
    }
    request = JobRequest(Plan.model_construct(folder="runs/x y"), given, tmp_path, tmp_path / "cache")
    job = ssh.Scheduler(given.scheduler).render(request, here)
    line = job.commands["b"][-1]
    assert "hush" not in f"{line} {job!r}" and key not in line
    assert job.secrets == {"WANDB_API_KEY": "hush", "LAUNCHER_WORD": "hush"}
    out = subprocess.run(["sh", "-c", line.replace("exec env", "exec printf '%s\\n'")], capture_output=True, text=True)
    words = out.stdout.splitlines()
    assert {"OMP_NUM_THREADS=2", "A=it's $(b)\\", "/opt/a b/python", f"{tmp_path}/runs/x y"} <= set(words)
    assert words[-6:] == ["--node", "1", "--hosts", "a,b", "--lifeline", "--environment"]
    assert not {"HOME=/root"} & set(words)


SEES = """
import os
from pathlib import Path
from launcher import sinks
from launcher.config.types import Plugin

class Config(Plugin):
    kind: str

class Sink(sinks.Sink):
    def __init__(self, config, about):
        Path("seen").write_text(os.environ["HF_TOKEN"])
    write = close = lambda self, what: None
"""


def test_secrets_reach_the_ranks_of_other_hosts_through_the_connection(here, hosts, monkeypatch):
    """Real sshd: nothing of them is on a command line of either side, nor in the run folder."""
    secret = f"canary-{os.getpid()}-{time.time_ns()}"
    monkeypatch.setenv("HF_TOKEN", secret)
    profile(here, hosts[1], env_from=["HF_TOKEN"])
    support.plugin("seeing", SEES)
    sinks = "sinks=[{kind: own.seeing}, jsonl]"
    started = support.start("run", "recipe.yaml", "--cluster", "hosts.yaml", sinks)
    lines = set()
    while started.poll() is None:
        lines |= {" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])}
    said = started.communicate(timeout=60)[0]
    assert started.returncode == 0, said
    assert Path("seen").read_text() == secret
    assert any("launcher.launch.node" in line and "--environment" in line for line in lines)
    assert secret not in "".join(lines) + said
    assert not [name for name, content in support.tree("runs").items() if secret.encode() in content]


def test_variables_of_libraries_are_shared_and_those_that_name_devices_are_not(tmp_path):
    given = Cluster.model_validate(
        {"kind": "ssh", "nodes": 2, "devices_per_node": 1, "device": "cuda", "memory_per_device": 1,
         "env": {"ROCR_VISIBLE_DEVICES": "1"}, "ssh": {"hosts": ["a", "b"]}}
    )  # fmt: skip
    request = JobRequest(Plan.model_construct(folder="runs/x"), given, tmp_path, tmp_path / "cache")
    shared = {"PYTORCH_ALLOC_CONF": "backend:native", "UCX_TLS": "rc", "FI_PROVIDER": "efa", "NCCL_DEBUG": "INFO"}
    own = {"CUDA_VISIBLE_DEVICES": "GPU-8b1d", "HIP_VISIBLE_DEVICES": "0", "ROCR_VISIBLE_DEVICES": "0"}
    found = ssh.forwarded(request, shared | own | {"NCCL_HOSTID": "a"})
    assert shared.items() <= found.items()
    assert not {"CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "NCCL_HOSTID"} & found.keys()
    assert found["ROCR_VISIBLE_DEVICES"] == "1", "the profile may set it for all hosts"


@pytest.mark.soak
def test_doctor_checks_the_hosts(here):
    """Both hosts through the real sshd: the report of each arrives, and that of all from the first."""
    done = support.launcher("doctor", "--cluster", "hosts.yaml", "--json", code=None, timeout=900)
    checks = json.loads(done.stdout)["checks"]
    assert {line["host"] for line in checks} >= set(here)
    found = {(line["check"], line["host"]): line for line in checks}
    assert found["ssh", socket.gethostname()]["level"] == "ok"
    for check in ("shared folder", "nodes", "clocks"):
        assert found[check, ""]["level"] == "ok", found[check, ""]
    assert ("all-reduce", "") in found
    assert not Path(".launcher-doctor").exists()
