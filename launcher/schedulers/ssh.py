"""A cluster without a queue: the agent of each node (launcher.launch.node) is started over ssh, and spoken to there.

An agent's standard input is its lifeline: a line says TERM, USR1 or NOW, and its end that the launcher is gone. So
nothing runs on where nobody waits for it, and nothing has to be killed by its number on another machine.
"""

import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from launcher.config import env_vars
from launcher.config.cluster import Cluster, Ssh
from launcher.config.errors import UserError
from launcher.distributed import signals
from launcher.distributed.exit_codes import DONE, FAILED, INVALID_INPUT, NODE_FAILURE, STOPPED
from launcher.distributed.signals import ForcedStop, StopReason
from launcher.launch import launch_spec
from launcher.launch.execute import Outcome, describe_checkpoint
from launcher.storage import cache_root
from launcher.storage.run_dir import RunDir

_SSH = (
    "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10",
    "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4",
)  # fmt: skip
_TAKEN = (
    "LAUNCHER_",
    "OMP_",
    "MKL_",
    "GLOO_",
    "NCCL_",
    "TORCH_",
    "PYTHON",
    "LD_LIBRARY_PATH",
    "CUDA_",
    "HF_HUB_OFFLINE",
)
_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")
"""Words in the names of variables that are not taken along: a command line is seen by everyone on a machine. Those of
the profile an agent reads in the run folder."""
_WORST = (INVALID_INPUT, FAILED, NODE_FAILURE, STOPPED, DONE)
_UNREACHABLE = 255
"""The exit code of ssh itself."""


@dataclass
class _Host:
    """A host, the ssh to it, and the last that was said on its standard error."""

    name: str
    ssh: subprocess.Popen[bytes]
    last: deque[str]
    pumps: list[threading.Thread]

    def tell(self, word: str) -> None:
        if self.ssh.stdin is not None:
            with suppress(OSError):
                self.ssh.stdin.write(f"{word}\n".encode())
                self.ssh.stdin.flush()


def execute(run: Path, cluster: Cluster, environment: Mapping[str, str] = os.environ) -> Outcome:
    """Start an agent on each host, pass on what they say, and wait for them. Raises UserError where there is no ssh."""
    assert cluster.ssh is not None
    if shutil.which("ssh") is None:
        raise UserError("ssh is not installed here, by which a cluster of kind ssh is reached")
    names = cluster.ssh.hosts[: cluster.nodes[1]]
    told = _environment(cluster, environment)
    hosts = [_start(i, names, cluster.ssh, command(run, i, names, cluster.ssh, told)) for i in range(len(names))]
    with _forwarding(hosts):
        try:
            code = _wait(hosts, cluster.nodes[0])
        except ForcedStop:
            for host in hosts:
                host.tell("NOW")
            code = STOPPED if _wait(hosts, cluster.nodes[0]) == STOPPED else FAILED
            if code == STOPPED:
                print(f"stopped at once: {describe_checkpoint(RunDir(run))}", file=sys.stderr, flush=True)
            return Outcome(code, {}, [])
    return Outcome(code, {}, [])


def command(run: Path, index: int, names: list[str], ssh: Ssh, environment: Mapping[str, str]) -> str:
    """What the shell of a host is asked to do."""
    hosts = ",".join(name.rpartition("@")[2] for name in names)
    told = [f"{name}={value}" for name, value in environment.items()]
    agent = [ssh.python or sys.executable, "-m", "launcher.launch.node", str(run.absolute())]
    agent += ["--node", str(index), "--hosts", hosts, "--lifeline"]
    return f"cd {shlex.quote(str(Path.cwd()))} || exit {NODE_FAILURE}; exec {shlex.join(['env', *told, *agent])}"


def _environment(cluster: Cluster, environment: Mapping[str, str]) -> dict[str, str]:
    """What an agent is to know: this start's name, where the cache is, and what the user has set here for libraries."""
    taken = {name: value for name, value in environment.items() if name.startswith(_TAKEN)}
    job = {env_vars.JOB: f"ssh-{int(time.time())}-{os.getpid()}", env_vars.START: "0"}
    own = {} if cluster.scratch.local is None else {"TMPDIR": cluster.scratch.local}
    told = {
        **taken,
        **own,
        **launch_spec.environment(cluster),
        **job,
        env_vars.CACHE: str(cache_root.root().absolute()),
    }
    return {name: value for name, value in told.items() if not any(word in name for word in _SECRET)}


def _start(index: int, names: list[str], ssh: Ssh, words: str) -> _Host:
    """Start an agent. A session of its own: Ctrl-C is for the launcher, which tells all agents what it means."""
    host = subprocess.Popen(
        ["ssh", *ssh.options, *_SSH, "--", names[index], words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    last: deque[str] = deque(maxlen=5)
    mark = f"{names[index]}: " if index else ""
    assert host.stdout is not None and host.stderr is not None
    pumps = [
        threading.Thread(target=_pump, args=(host.stdout, sys.stdout, mark, deque[str](maxlen=1)), daemon=True),
        threading.Thread(target=_pump, args=(host.stderr, sys.stderr, mark, last), daemon=True),
    ]
    for pump in pumps:
        pump.start()
    return _Host(names[index], host, last, pumps)


def _pump(source: IO[bytes], to: IO[str], mark: str, last: deque[str]) -> None:
    """Pass on what a host says, line by line; all hosts but the first by name."""
    for line in source:
        text = line.decode(errors="replace")
        last.append(text.strip())
        to.write(f"{mark}{text}")
        to.flush()


def _wait(hosts: list[_Host], least: int) -> int:
    """Until all have ended. Where too few are left the others are told to stop."""
    ended: dict[str, int] = {}
    told = False
    while len(ended) < len(hosts):
        time.sleep(0.05)
        for host in hosts:
            if host.name not in ended and (code := host.ssh.poll()) is not None:
                ended[host.name] = _code(host, code)
        failed = [code for code in ended.values() if code != DONE]
        if not told and (len(hosts) - len(failed) < least or {FAILED, INVALID_INPUT} & set(failed)):
            told = True
            for host in hosts:
                host.tell("TERM")
    return _worst(list(ended.values()), least)


def _worst(codes: list[int], least: int) -> int:
    """Of the hosts' exit codes that which counts. An elastic run does without those that were lost."""
    if codes.count(DONE) >= least and set(codes) <= {DONE, NODE_FAILURE}:
        return DONE
    return next(code for code in _WORST if code in codes)


def _code(host: _Host, code: int) -> int:
    """How an agent has ended; where not as agents do, why is told."""
    for pump in host.pumps:
        pump.join(5)
    if code in _WORST:
        return code
    why = " ".join(line for line in host.last if line) or f"exit code {code}"
    what = "cannot be reached, or was lost" if code == _UNREACHABLE else "could not start the launcher, or lost it"
    print(f"{host.name} {what}: {why}", file=sys.stderr, flush=True)
    return NODE_FAILURE


@contextmanager
def _forwarding(hosts: list[_Host]) -> Iterator[None]:
    """Signals are passed on to all agents, whose ranks agree on the step at which they leave."""

    def stop(reason: StopReason) -> None:
        for host in hosts:
            host.tell("TERM" if reason is StopReason.STOP else "USR1")
        signals.announce("hosts")

    with signals.forwarding(stop):
        yield
