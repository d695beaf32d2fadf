"""Hosts without a queue: the agent of each node (launcher.launch.node) is started over ssh.

The standard input of an agent is its lifeline. Its first line has the variables of `env_from`, if there are any, since
other users can read command lines. A line TERM, USR1 or NOW stands for a signal, and the end of the input means that
the launcher is gone. So no agent outlives the launcher, and no process on another machine has to be killed by its id.
"""

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from pydantic import Field

from launcher.config import env_vars, secret_values
from launcher.config.errors import UserError
from launcher.config.format import plural
from launcher.config.profile_values import Line, Where
from launcher.config.types import SchedulerConfig
from launcher.distributed import signals
from launcher.distributed.exit_codes import DONE, FAILED, INVALID_INPUT, NODE_FAILURE, STOPPED
from launcher.distributed.signals import ForcedStop, StopReason
from launcher.health.finding import Check, Finding
from launcher.launch.execute import Outcome, describe_checkpoint
from launcher.schedulers import ForegroundScheduler, JobRequest, RenderedJob, SubmittedJob
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster

_SSH_OPTIONS = (
    "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10",
    "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4",
)  # fmt: skip
_FORWARDED_VARIABLES = (
    "LAUNCHER_", "OMP_", "KMP_", "MKL_", "GLOO_", "NCCL_", "RCCL_", "UCX_", "FI_", "TORCH_", "TORCHINDUCTOR_",
    "TRITON_", "PYTORCH_", "PYTHON", "LD_LIBRARY_PATH", "CUDA_", "CUBLAS_", "HF_HUB_OFFLINE",
)  # fmt: skip
"""Prefixes of the environment variables that are forwarded to the hosts."""
_OF_THIS_HOST = {
    "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_MPS_PIPE_DIRECTORY",
    "CUDA_MPS_LOG_DIRECTORY", "NCCL_HOSTID",
}  # fmt: skip
"""Variables that name devices or services of this host, which another host does not have."""
_EXIT_CODES = (INVALID_INPUT, FAILED, NODE_FAILURE, STOPPED, DONE)
"""Exit codes of agents, by decreasing severity."""
_UNREACHABLE = 255
"""Exit code of ssh itself."""

_log = logging.getLogger(__name__)


class Config(SchedulerConfig):
    """Hosts that are reached by ssh. The current folder and the cache have to be on a disk that they share."""

    kind: Literal["ssh"] = "ssh"
    hosts: list[Line] = Field(min_length=1)
    """Host names. The hosts must reach each other by these names. The first one is the rendezvous."""
    options: list[Line] = []
    """Options of ssh, such as -p or -i."""
    python: Where | None = None
    """Python interpreter on the hosts. Default: the path of the current interpreter."""

    def check_nodes(self, minimum: int, maximum: int) -> str | None:
        if maximum <= len(self.hosts):
            return None
        return f"{plural(maximum, 'node')} of {plural(len(self.hosts), 'host')} (name more in ssh.hosts, or take fewer)"


@dataclass(frozen=True, kw_only=True)
class SshJob(RenderedJob):
    """A job on several hosts. `commands`: ssh command of each host. `run`: run folder. `minimum`: number of hosts that
    the run needs. `secrets`: variables for the agents that must not stand on a command line; None: the
    agents expect none."""

    commands: dict[str, tuple[str, ...]]
    run: Path
    minimum: int
    secrets: dict[str, str] | None = field(default=None, repr=False)


class Scheduler(ForegroundScheduler[SshJob]):
    config: Config

    def render(self, request: JobRequest, environment: Mapping[str, str] = os.environ) -> SshJob:
        """Return the job, with the ssh command of each host. `environment`: the variables of this process; some are
        forwarded."""
        minimum, maximum = request.cluster.nodes
        hosts = self.config.hosts[:maximum]
        variables = forwarded(request, environment)
        commands = {
            host: ("ssh", *self.config.options, *_SSH_OPTIONS, "--", host, self._agent(request, i, hosts, variables))
            for i, host in enumerate(hosts)
        }
        secrets = request.secrets(environment) if request.cluster.env_from else None
        return SshJob(commands=commands, run=request.run_folder, minimum=minimum, secrets=secrets)

    def submit(self, job: SshJob) -> SubmittedJob:
        if shutil.which("ssh") is None:
            raise UserError("ssh is not installed here, by which a cluster of kind ssh is reached")
        agents = [_start(host, argv, is_first=i == 0) for i, (host, argv) in enumerate(job.commands.items())]
        for agent in agents if job.secrets is not None else []:
            agent.send(json.dumps(job.secrets))
        with _forwarding_signals(agents):
            try:
                code = _wait(agents, job.minimum)
            except ForcedStop:
                code = _stop_at_once(agents, job)
        return SubmittedJob(outcome=Outcome(code, {}, []))

    def findings(self) -> list[Finding]:
        check, tool = Check("services", "ssh"), shutil.which("ssh")
        if tool is None:
            return [check.failure("ssh is not installed here", "install openssh-client")]
        return [check.ok(f"{tool}; {plural(len(self.config.hosts), 'host')} in the profile")]

    def node_commands(self, cluster: "Cluster", arguments: Sequence[str]) -> dict[str, list[str]]:
        hosts = self.config.hosts[: cluster.nodes[1]]
        addresses = ",".join(_address(name) for name in hosts)
        found = dict[str, list[str]]()
        for i, host in enumerate(hosts):
            words = [self.config.python or sys.executable, *arguments]
            words += ["--node", str(i), "--hosts", addresses, "--lifeline"]
            line = f"cd {shlex.quote(str(Path.cwd()))} || exit {NODE_FAILURE}; exec {self._with_path(words)}"
            found[_address(host)] = ["ssh", *self.config.options, *_SSH_OPTIONS, "--", host, line]
        return found

    def _with_path(self, words: Sequence[str]) -> str:
        """Return a command of the shell with the module search path of this process."""
        path = os.environ.get("PYTHONPATH")
        return shlex.join([*(["env", f"PYTHONPATH={path}"] if path else []), *words])

    def _agent(self, request: JobRequest, index: int, hosts: Sequence[str], variables: Mapping[str, str]) -> str:
        """Return the shell command with which a host starts its agent."""
        addresses = ",".join(map(_address, hosts))
        words = ["env", *(f"{name}={value}" for name, value in variables.items())]
        words += [self.config.python or sys.executable, "-m", "launcher.launch.node", str(request.run_folder)]
        words += ["--node", str(index), "--hosts", addresses, "--lifeline"]
        words += ["--environment"] if request.cluster.env_from else []
        return f"cd {shlex.quote(str(request.working_directory))} || exit {NODE_FAILURE}; exec {shlex.join(words)}"


def forwarded(request: JobRequest, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of the agents: of the profile, the job, and this process (for libraries).

    What may be a secret is left out, because every user of a machine sees its command lines. The agents read the
    profile's own variables in the run folder. What names devices of this host is left out too; the profile may set it.
    """
    shared = {name: value for name, value in environment.items() if name not in _OF_THIS_HOST}
    here = {name: value for name, value in shared.items() if name.startswith(_FORWARDED_VARIABLES)}
    variables = here | request.variables(f"{job_log.OVER_SSH}{request.token}")
    variables = {name: value for name, value in variables.items() if name not in request.cluster.env_from}
    return {
        name: value
        for name, value in variables.items()
        if not (env_vars.is_secret(name) or secret_values.is_known_key(value))
    }


def _address(host: str) -> str:
    """Return a host's name, without the user before it."""
    return host.rpartition("@")[2]


@dataclass
class _Agent:
    """Agent of a host: the ssh process to it, and the last lines of its standard error."""

    host: str
    ssh: subprocess.Popen[bytes]
    last_lines: deque[str]
    readers: list[threading.Thread]

    def send(self, word: str) -> None:
        """Send a line to the agent's lifeline."""
        if self.ssh.stdin is not None:
            with suppress(OSError):
                self.ssh.stdin.write(f"{word}\n".encode())
                self.ssh.stdin.flush()


def _start(host: str, argv: Sequence[str], is_first: bool) -> _Agent:
    """Start an agent in its own session. So Ctrl-C reaches only the launcher, which signals all agents."""
    ssh = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    last_lines: deque[str] = deque(maxlen=5)
    mark = "" if is_first else f"{host}: "
    assert ssh.stdout is not None and ssh.stderr is not None
    readers = [
        threading.Thread(target=_copy_lines, args=(ssh.stdout, sys.stdout, mark, deque[str](maxlen=1)), daemon=True),
        threading.Thread(target=_copy_lines, args=(ssh.stderr, sys.stderr, mark, last_lines), daemon=True),
    ]
    for reader in readers:
        reader.start()
    return _Agent(host, ssh, last_lines, readers)


def _copy_lines(source: IO[bytes], to: IO[str], mark: str, last_lines: deque[str]) -> None:
    """Print the output of a host line by line, each line after `mark`, and collect its last lines."""
    for line in source:
        text = line.decode(errors="replace")
        last_lines.append(text.strip())
        to.write(f"{mark}{text}")
        to.flush()


def _wait(agents: Sequence[_Agent], minimum: int) -> int:
    """Wait until all agents have ended, and return the job's exit code. If too few can still succeed, the others are
    stopped."""
    codes: dict[str, int] = {}
    stopped = False
    while len(codes) < len(agents):
        time.sleep(0.05)
        for agent in agents:
            if agent.host not in codes and (code := agent.ssh.poll()) is not None:
                codes[agent.host] = _exit_code(agent, code)
        failed = [code for code in codes.values() if code != DONE]
        if not stopped and (len(agents) - len(failed) < minimum or {FAILED, INVALID_INPUT} & set(failed)):
            stopped = True
            for agent in agents:
                agent.send("TERM")
    return _most_severe(list(codes.values()), minimum)


def _most_severe(codes: list[int], minimum: int) -> int:
    """Return the exit code of a job from those of its agents: the most severe one.

    It is DONE if at least `minimum` agents are done and all others were lost, because an elastic run continues without
    these.
    """
    if codes.count(DONE) >= minimum and set(codes) <= {DONE, NODE_FAILURE}:
        return DONE
    return next(code for code in _EXIT_CODES if code in codes)


def _exit_code(agent: _Agent, code: int) -> int:
    """Return the exit code of an agent. If ssh or the host failed, log the reason and return the code of a lost
    node."""
    for reader in agent.readers:
        reader.join(5)
    if code in _EXIT_CODES:
        return code
    why = " ".join(line for line in agent.last_lines if line) or f"exit code {code}"
    what = "cannot be reached, or was lost" if code == _UNREACHABLE else "could not start the launcher, or lost it"
    _log.error("%s %s: %s", agent.host, what, why)
    return NODE_FAILURE


def _stop_at_once(agents: Sequence[_Agent], job: SshJob) -> int:
    """End the ranks of all hosts without a further checkpoint, and return the job's exit code."""
    for agent in agents:
        agent.send("NOW")
    if _wait(agents, job.minimum) != STOPPED:
        return FAILED
    _log.warning("stopped at once: %s", describe_checkpoint(RunDir(job.run)))
    return STOPPED


@contextmanager
def _forwarding_signals(agents: Sequence[_Agent]) -> Iterator[None]:
    """Forward signals to all agents inside the context. Their ranks agree on the step at which they stop."""

    def stop(reason: StopReason) -> None:
        for agent in agents:
            agent.send("TERM" if reason is StopReason.STOP else "USR1")
        signals.announce("hosts")

    with signals.forwarding(stop):
        yield
