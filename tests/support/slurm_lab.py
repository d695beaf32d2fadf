"""A real Slurm of several nodes on this one machine, for tests that break it.

Each node is a slurmd with a host name, processes and mounts of its own (Linux namespaces), at an address of the
loopback that no other lab has. So labs live side by side: each claims a number by its lines in /etc/hosts, and its
names (n1-2: the second node of lab 1), addresses and ports follow from that. Everything else is in the lab's folder.

It needs root, Slurm, munge and util-linux. By hand: `python tests/support/slurm_lab.py up 3`, `... down`, `... --help`.
"""

import argparse
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HOSTS = Path("/etc/hosts")
MARK = "# launcher-lab"
MOST = 30
"""Nodes of a lab: that many ports lie between two labs."""
LIVING = {"PENDING", "CONFIGURING", "RUNNING", "SIGNALING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD"}
_TOOLS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "unshare", "nsenter", "mount")
_NAMESPACES = ("--uts", "--pid", "--mount", "--fork", "--mount-proc")
_NODE = """hostname "$1"; trap 'exit 0' TERM INT
slurmd -D -N "$1" </dev/null >>"$2" 2>&1 &
sleep infinity & while :; do wait; sleep 1; done"""
"""The first process of a node: it reaps what is orphaned, and lives on when slurmd dies."""

_CONF = """ClusterName=lab{number}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool/%n
SlurmdPidFile={folder}/spool/%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdParameters=config_overrides
MailProg={folder}/mail
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={memory_per_cpu}
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,bf_interval=2,bf_window=1440
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
EnforcePartLimits=ALL
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
BatchStartTimeout=10
MessageTimeout=10
KillWait={kill_wait}
MinJobAge=3600
JobRequeue=1
GresTypes=gpu
{nodes}
PartitionName=lab Nodes=ALL Default=YES DefaultTime=10 MaxTime=INFINITE State=UP PriorityTier=5
PartitionName=urgent Nodes=ALL DefaultTime=10 State=UP PriorityTier=10
PartitionName=spare Nodes=ALL DefaultTime=10 State=UP PriorityTier=1 PreemptMode=CANCEL GraceTime=15
PartitionName=physics Nodes=ALL DefaultTime=10 State=UP PriorityTier=5 AllowAccounts=physics
PartitionName=short Nodes=ALL DefaultTime=1 MaxTime=1 State=UP PriorityTier=5
{extra}
"""
_NODE_LINE = "NodeName={name} NodeHostname={name} NodeAddr={address} Port={port} CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN"  # noqa: E501


class Broken(AssertionError):
    """The lab, or a job in it, did not do in time what was waited for."""


@dataclass(frozen=True)
class Process:
    """A process of a node: its number here, its number inside, its command line."""

    pid: int
    inside: int
    argv: tuple[str, ...]


def missing() -> str | None:
    """Why there can be no lab on this machine; None where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a Slurm lab needs root on Linux"
    absent = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if absent:
        return f"a Slurm lab needs {', '.join(absent)} (apt-get install slurm-wlm munge)"
    tried = subprocess.run(["unshare", *_NAMESPACES, "true"], capture_output=True, text=True, timeout=30, check=False)
    return f"a Slurm lab needs namespaces: {tried.stderr.strip()}" if tried.returncode else None


def until(happens: Callable[[], Any], timeout: float, what: str, every: float = 0.2) -> Any:
    """Ask until the answer is true, and return it. Raises Broken after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (answer := happens()):
        if time.monotonic() > end:
            raise Broken(f"not within {timeout:g} s: {what}")
        time.sleep(every)
    return answer


def fields(record: str) -> dict[str, str]:
    """What `scontrol show job` prints of a job, as a mapping. The name stands alone at the end of the first line; what
    else a user may write stands below what Slurm says."""
    first, _, rest = record.strip().partition("\n")
    first, _, name = first.partition(" JobName=")
    found = {"JobName": name}
    for line in (first, *rest.splitlines()):
        for match in re.finditer(r"(?:^| )([A-Za-z][\w:/]*)=(.*?)(?= [A-Za-z][\w:/]*=|$)", line.strip()):
            found.setdefault(match[1], match[2].strip())
    return found


class Lab:
    """`number` tells it from the other labs of this machine; `nodes` are the names."""

    def __init__(self, folder: Path, number: int, nodes: Sequence[str]):
        self.folder, self.number, self.nodes = folder, number, list(nodes)
        self.conf = folder / "slurm.conf"
        self._pids = folder / "pids"
        self._hurt: set[str] = set()

    # life

    @classmethod
    def start(
        cls, folder: Path, nodes: int = 3, *, cpus: int = 4, gpus: int = 4, memory: int = 8000, kill_wait: int = 20,
        extra: Sequence[str] = (), owner: bool = True,
    ) -> "Lab":  # fmt: skip
        """A lab whose nodes are all idle. `memory` in MB a node; `kill_wait`: seconds between TERM and KILL; `extra`:
        lines of slurm.conf; `owner`: it ends with this process, by the next lab at the latest."""
        if len(str(folder)) > 80:
            raise Broken(f"{folder}: too long a path for the sockets in it")
        for name in ("state", "spool", "pids", "dev"):
            (folder / name).mkdir(parents=True)
        if owner:
            _note(folder / "pids" / "owner", os.getpid())
        else:
            (folder / "by-hand").touch()
        number = _claim(folder, nodes)
        lab = cls(folder, number, [f"n{number}-{i}" for i in range(1, nodes + 1)])
        try:
            lab._configure(cpus, gpus, memory, kill_wait, extra)
            lab._daemons()
            for node in lab.nodes:
                lab._power_on(node)
            lab.wait_idle()
        except BaseException:
            lab.end()
            raise
        return lab

    @classmethod
    def attach(cls, folder: Path) -> "Lab":
        """The lab of a folder, started by another process."""
        told = json.loads((folder / "lab.json").read_text())
        return cls(folder, told["number"], told["nodes"])

    def end(self) -> None:
        """End every process that was started, and give the names back."""
        with suppress(Broken, subprocess.SubprocessError):
            self.cancel_all()
        _end(self.folder)
        with _hosts() as lines:
            lines[:] = [line for line in lines if not _is_of(line, self.folder)]

    @property
    def env(self) -> dict[str, str]:
        """The environment for Slurm's commands; without what a job that these tests may run in has set."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return {**mine, "SLURM_CONF": str(self.conf)}

    # commands and jobs

    def run(self, *argv: str, timeout: float = 30, check: bool = True, **options: Any) -> str:
        """What a command says on its standard output. Raises Broken where it fails, unless `check` is false."""
        options = {"env": self.env, "capture_output": True, "text": True, **options}
        done = subprocess.run(argv, timeout=timeout, check=False, **options)
        if check and done.returncode:
            raise Broken(f"{' '.join(argv)}: exit code {done.returncode}: {done.stderr}{done.stdout}")
        return str(done.stdout)

    def sbatch(
        self, script: str | Path, *options: str, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> str:
        """Submit a script, a file or a text. Returns the job's id."""
        where = {"cwd": cwd or self.folder, "env": {**self.env, **(env or {})}}
        if isinstance(script, Path):
            said = self.run("sbatch", "--parsable", *options, str(script), **where)
        else:
            text = script if script.startswith("#!") else f"#!/bin/bash\n{script}"
            said = self.run("sbatch", "--parsable", *options, input=text, **where)
        return said.strip().partition(";")[0]

    def jobs(self, *ids: str) -> list[dict[str, str]]:
        """The fields of `scontrol show job`, of all jobs or of these; of an array each task's."""
        said = [self.run("scontrol", "show", "job", *one) for one in ([[id] for id in ids] or [[]])]
        records = [record for text in said for record in re.split(r"^(?=JobId=)", text, flags=re.M)]
        return [fields(record) for record in records if record.startswith("JobId=")]

    def job(self, id: str) -> dict[str, str]:
        """The fields of one job."""
        return self.jobs(id)[0]

    def wait(self, id: str, states: str | Sequence[str], timeout: float = 60) -> dict[str, str]:
        """Wait until the job is in one of the states, and return its fields. Raises Broken at once where it is over."""
        wanted = {states} if isinstance(states, str) else set(states)

        def there() -> dict[str, str] | None:
            found = self.job(id)
            if found["JobState"] not in wanted | LIVING:
                raise Broken(f"job {id} is {found['JobState']}, not {states}")
            return found if found["JobState"] in wanted else None

        with self._told(id):
            return until(there, timeout, f"job {id} is {states}")

    def over(self, id: str, timeout: float = 60) -> dict[str, str]:
        """Wait until the job lives no more, nor is requeued. Returns its fields then."""
        with self._told(id):
            return until(
                lambda: (found := self.job(id))["JobState"] not in LIVING and found, timeout, f"job {id} is over"
            )

    def log(self, id: str) -> str:
        """What the job has printed."""
        file = Path(self.job(id).get("StdOut", ""))
        return file.read_text(errors="replace") if file.is_file() else ""

    def wait_log(self, id: str, text: str, timeout: float = 60) -> str:
        """Wait until the job has printed this. Returns all that it has."""
        with self._told(id):
            return until(lambda: text in (log := self.log(id)) and log, timeout, f"{text!r} in the log of job {id}")

    def cancel_all(self) -> None:
        self.run("scancel", "--user=root", check=False)

    @contextmanager
    def _told(self, id: str) -> Iterator[None]:
        """Say with what went wrong what is known of the job."""
        try:
            yield
        except Broken as broken:
            told = [str(broken), str(self.job(id)), "its log:", *self.log(id).splitlines()[-30:]]
            told += ["slurmctld:", *self.daemon_log("slurmctld").splitlines()[-15:]]
            raise Broken("\n".join(told)) from None

    # nodes

    def states(self) -> dict[str, str]:
        """Each node's state, such as idle, mixed, down."""
        said = self.run("sinfo", "--noheader", "--Node", "--partition=lab", "--format=%N %T")
        return dict(line.split() for line in said.splitlines())

    def wait_idle(self, timeout: float = 60) -> None:
        until(lambda: set(self.states().values()) == {"idle"}, timeout, f"idle nodes ({self.folder})")

    def address(self, node: str) -> str:
        return f"127.77.{self.number}.{self.nodes.index(node) + 1}"

    def crash(self, node: str) -> None:
        """Power off: every process of the node is gone at once. Slurm finds out by itself; see `down`."""
        self._hurt.add(node)
        _kill(self._pids / node)

    def boot(self, node: str, timeout: float = 60) -> None:
        """Power on again, and wait until Slurm may use it."""
        self._power_on(node)
        if self.states()[node].rstrip("*") not in ("idle", "mixed", "allocated"):
            self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)  # where it was set down
        until(lambda: self.states()[node] in ("idle", "mixed", "allocated"), timeout, f"{node} is up")

    def down(self, node: str) -> None:
        """Tell Slurm that the node is lost: what ran there is requeued at once, not after SlurmdTimeout."""
        self._hurt.add(node)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def kill_slurmd(self, node: str) -> None:
        """End the slurmd alone: what runs there lives on."""
        self._hurt.add(node)
        for process in self.pids(node):
            if process.argv[:1] == ("slurmd",):
                os.kill(process.pid, signal.SIGKILL)

    def start_slurmd(self, node: str) -> None:
        """A new slurmd in the living node."""
        log = (self.folder / f"slurmd.{node}.out").open("ab")
        subprocess.Popen(
            [*self._enter(node), "slurmd", "-N", node], env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ).wait(30)

    def exec(self, node: str, argv: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command inside the node."""
        options = {"env": self.env, "capture_output": True, "text": True, "timeout": 60, "check": False, **options}
        return subprocess.run([*self._enter(node), *argv], **options)

    def pids(self, node: str, word: str = "") -> list[Process]:
        """The processes of the node, but its first, whose command line contains a word."""
        space, found = _link(Path(f"/proc/{self._inner(node)}/ns/pid")), []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if _link(Path(f"/proc/{process.pid}/ns/pid")) != space or process.pid == self._inner(node):
                    continue
                status = Path(f"/proc/{process.pid}/status").read_text()
                inside = int(re.search(r"^NSpid:.*\t(\d+)$", status, re.M)[1])  # type: ignore[index]
                argv = tuple(process.cmdline())
                if argv and word in " ".join(argv):
                    found.append(Process(process.pid, inside, argv))
        return found

    def hide(self, node: str, path: Path | str) -> None:
        """An empty folder in the place of this one, as that node sees it."""
        self._hurt.add(node)
        self._mount(node, "-t", "tmpfs", "none", str(path))

    def read_only(self, node: str, path: Path | str) -> None:
        """A folder that this node cannot write to."""
        self._hurt.add(node)
        self._mount(node, "--bind", str(path), str(path))
        self._mount(node, "-o", "remount,ro,bind", str(path))

    def forget(self, node: str, name: str, instead: str | None = None) -> None:
        """The node does not know this name any more, or takes it for another address."""
        self._hurt.add(node)
        kept = [line for line in HOSTS.read_text().splitlines() if name not in line.partition("#")[0].split()[1:]]
        file = self.folder / f"hosts.{node}.{time.monotonic_ns()}"
        file.write_text("\n".join([*kept, *([f"{instead} {name}"] if instead else [])]) + "\n")
        self._mount(node, "--bind", str(file), str(HOSTS))

    def reset(self) -> None:
        """No job lives, every node is idle, and nothing is left of what was done to one."""
        self.cancel_all()
        with suppress(Broken):
            until(lambda: not self.run("squeue", "--noheader"), 8, "no job is left")
        for node, state in self.states().items():
            if node in self._hurt or state != "idle":
                _kill(self._pids / node)  # and with it whatever a job has left there
                self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=reset")
        for node, state in self.states().items():
            if node in self._hurt or state != "idle":
                self.boot(node)
        self._hurt.clear()
        self.wait_idle()

    def daemon_log(self, name: str) -> str:
        """`slurmctld`, or `slurmd.<node>`."""
        file = self.folder / f"{name}.log"
        return file.read_text(errors="replace") if file.is_file() else ""

    # its making

    def _configure(self, cpus: int, gpus: int, memory: int, kill_wait: int, extra: Sequence[str]) -> None:
        port, folder = 20000 + self.number * (MOST + 2), self.folder
        lines = [
            _NODE_LINE.format(name=node, address=self.address(node), port=port + i, cpus=cpus, memory=memory, gpus=gpus)
            for i, node in enumerate(self.nodes, start=1)
        ]
        if not gpus:
            lines = [line.replace(" Gres=gpu:0", "") for line in lines]
        text = _CONF.format(
            number=self.number, host=socket.gethostname(), port=port, folder=folder, memory_per_cpu=memory // cpus,
            kill_wait=kill_wait, nodes="\n".join(lines), extra="\n".join(extra),
        )  # fmt: skip
        for i in range(gpus):  # Slurm takes character devices alone for GPUs: these are twins of /dev/null
            os.mknod(folder / "dev" / f"gpu{i}", 0o20666, os.makedev(1, 3))
        fake = f"{folder}/dev/gpu[0-{gpus - 1}]" if gpus > 1 else f"{folder}/dev/gpu0"
        gres = f"NodeName={','.join(self.nodes)} Name=gpu File={fake} Flags=nvidia_gpu_env\n" if gpus else ""
        (folder / "gres.conf").write_text(gres)
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        (folder / "plugstack.conf").write_text("")
        (folder / "mail").write_text("#!/bin/sh\nexit 0\n")
        (folder / "mail").chmod(0o755)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        (folder / "lab.json").write_text(json.dumps({"number": self.number, "nodes": self.nodes}))
        self.conf.write_text(text)

    def _daemons(self) -> None:
        munge = ["munged", "--foreground", "--force", f"--key-file={self.folder}/munge.key"]
        munge += [f"--socket={self.folder}/munge.sock", f"--pid-file={self.folder}/munged.pid"]
        munge += [f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/munge.seed"]
        self._start("munged", munge)
        until((self.folder / "munge.sock").exists, 20, "munged listens")
        self._start("slurmctld", ["slurmctld", "-D"])
        until(lambda: "is UP" in self.run("scontrol", "ping", check=False), 30, f"slurmctld is up ({self.folder})")

    def _power_on(self, node: str) -> None:
        (self.folder / "spool" / node).mkdir(parents=True, exist_ok=True)
        first = ["bash", "-c", _NODE, "node", node, str(self.folder / f"slurmd.{node}.out")]
        self._start(node, ["unshare", *_NAMESPACES, "--kill-child=KILL", *first])

    def _start(self, name: str, argv: list[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "env": self.env}
            started = subprocess.Popen(argv, start_new_session=True, cwd="/", **options)
        _note(self._pids / name, started.pid)

    def _inner(self, node: str) -> int:
        """The first process of the node, by its number here."""
        outer = _noted(self._pids / node)
        if outer is None:
            raise Broken(f"{node} is off")
        return int(until(lambda: outer.children(), 5, f"{node} has begun", 0.02)[0].pid)

    def _enter(self, node: str) -> list[str]:
        return ["nsenter", "-t", str(self._inner(node)), "-p", "-u", "-m"]

    def _mount(self, node: str, *options: str) -> None:
        self.run(*self._enter(node), "mount", *options)


# the machine, with other labs on it


@contextmanager
def _hosts() -> Iterator[list[str]]:
    """The lines of /etc/hosts, to be changed: one process at a time, and in place, since it is often a mount."""
    with HOSTS.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = file.read().splitlines()
        before = list(lines)
        yield lines
        if lines != before:
            file.seek(0)
            file.write("\n".join(lines) + "\n")
            file.truncate()


def _claim(folder: Path, nodes: int) -> int:
    """The number of a new lab. Labs whose owner has died are ended first."""
    if not 0 < nodes <= MOST:
        raise Broken(f"{nodes} nodes: a lab has 1 to {MOST}")
    with _hosts() as lines:
        for old in {Path(line.partition(MARK)[2].strip()) for line in lines if MARK in line}:
            if not _lives(old):
                _end(old)
                lines[:] = [line for line in lines if not _is_of(line, old)]
        taken = {int(line.split(".")[2]) for line in lines if MARK in line}
        number = min(set(range(1, 250)) - taken)
        lines += [f"127.77.{number}.{i} n{number}-{i} {MARK} {folder}" for i in range(1, nodes + 1)]
    return number


def _is_of(line: str, folder: Path) -> bool:
    return line.partition(MARK)[2].strip() == str(folder)


def _lives(folder: Path) -> bool:
    if (folder / "by-hand").exists():
        return _noted(folder / "pids" / "slurmctld") is not None or not (folder / "pids" / "slurmctld").exists()
    return _noted(folder / "pids" / "owner") is not None


def _end(folder: Path) -> None:
    """End what a lab has started: nodes first, so that nothing is left to wait for."""
    files = sorted((folder / "pids").glob("*"), key=lambda file: (file.name in ("slurmctld", "munged"), file.name))
    for file in files:
        if file.name != "owner":
            _kill(file)
    (folder / "slurm.conf").unlink(missing_ok=True)  # a command run later says so, and does not call for a minute


def _note(file: Path, pid: int) -> None:
    file.write_text(f"{pid} {psutil.Process(pid).create_time()}")


def _noted(file: Path) -> psutil.Process | None:
    """The process that was noted, while it lives."""
    with suppress(OSError, ValueError, psutil.Error):
        pid, born = file.read_text().split()
        process = psutil.Process(int(pid))
        if abs(process.create_time() - float(born)) < 0.05 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _kill(file: Path) -> None:
    """A namespace dies with its first process, which dies with the noted one."""
    process = _noted(file)
    if process is not None:
        with suppress(psutil.Error):
            inner = process.children() if file.name not in ("slurmctld", "munged") else []
            process.kill()
            until(lambda: all(_ended(one) for one in (process, *inner)), 10, f"{file.name} has ended", 0.02)
    file.unlink(missing_ok=True)


def _ended(process: psutil.Process) -> bool:
    """Whether it is gone, or a zombie that whoever adopted it does not reap."""
    with suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _link(path: Path) -> str:
    return str(path.readlink())


def main(arguments: Sequence[str]) -> None:
    """A lab by hand."""
    parser = argparse.ArgumentParser(description="A Slurm lab by hand. Then: export SLURM_CONF=... as it prints.")
    parser.add_argument("--name", default="hand", help="its folder is /tmp/lab-NAME")
    parser.add_argument("--kill-wait", type=int, default=20, help="seconds between TERM and KILL")
    parser.add_argument("--extra", action="append", default=[], help="a line of slurm.conf")
    of_node = "crash boot down kill_slurmd start_slurmd exec pids hide read_only forget"
    words = ["up", "reset", *of_node.split()]
    parser.add_argument("what", choices=words, metavar="|".join(words))
    parser.add_argument(
        "rest", nargs=argparse.REMAINDER, help="up: how many nodes; down alone: end; else the node, ..."
    )
    told = parser.parse_args(arguments)
    folder = Path(f"/tmp/lab-{told.name}")
    if told.what == "up":
        if _noted(folder / "pids" / "slurmctld"):
            lab = Lab.attach(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            nodes = int(told.rest[0]) if told.rest else 3
            lab = Lab.start(folder, nodes, kill_wait=told.kill_wait, extra=told.extra, owner=False)
        print(f"export SLURM_CONF={lab.conf} LAB='{' '.join(lab.nodes)}'")
        return
    lab = Lab.attach(folder)
    if told.what == "down" and not told.rest:
        lab.end()
        shutil.rmtree(folder, ignore_errors=True)
    elif told.what == "reset":
        lab.reset()
    elif told.what == "exec":
        sys.exit(lab.exec(told.rest[0], told.rest[1:], capture_output=False, timeout=None).returncode)
    else:
        for process in getattr(lab, told.what)(*told.rest) or ():
            print(process.pid, process.inside, *process.argv)


if __name__ == "__main__":
    main(sys.argv[1:])
