"""Find the rank that failed first, and report it: one sentence, what to do, then the details."""

import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from launcher.config import paths
from launcher.distributed.hangs import Hang, names
from launcher.distributed.heartbeat import Position

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing import ProcessFailure

_LOST_PEER_WORDS = (
    # gloo (transport/tcp/pair.cc, unbound_buffer.cc)
    "connection closed by peer", "connection reset", "connection refused", "broken pipe",
    "ms for recv operation to complete", "ms for send operation to complete", "application timeout caused pair closure",
    "connectfullmesh failed with",
    # NCCL (ncclGetErrorString, and its last error) and ProcessGroupNCCL
    "ncclremoteerror", "remote process exited or there was a network error", "closed by remote peer",
    "got completion from peer", "watchdog caught collective operation timeout", "nccl communicator was aborted",
    "timed out in blocking wait", "some nccl operations have failed or timed out", "software caused connection abort",
    # launcher.distributed.launch_env
    "unreachablepeer",
    # torch's stores
    "socket timeout", "wait timeout", "connection was likely closed", "remote peer closed the connection",
)  # fmt: skip
"""Parts of the messages, in lower case, that libraries raise in a rank after another rank is gone."""
_NO_ERROR_FILE = "To enable traceback see"
"""Beginning of torch's message for a rank that died before it could write an error file."""

_WATCHDOG = re.compile(r"Watchdog caught collective operation timeout: WorkNCCL\((.*?)\) ran for (\d+) milliseconds")
_OPERATION = re.compile(r"OpType=(\w+)")
_CUDA_ERROR = re.compile(r"CUDA error: [^\n]+")
_MISMATCH = "Received data size doesn't match expected size"
"""Part of gloo's message when a rank receives data of another collective (transport/tcp/pair.cc)."""
DIFFERENT_COLLECTIVES = "gloo received data of another size than expected: ranks have called different collectives"
_LAST_BYTES = 1 << 16
"""Bytes at the end of a log in which an aborted rank's libraries say why: their messages and C++ stacks."""

_NO_ERROR = "before it could say why (look at what was printed before)"
_EXPLANATIONS = {
    0: "it left with exit code 0 before the others had finished (does its code call exit?)",
    255: "the server that it was forked from is gone (killed, for want of memory?)",
}
"""Explanations of exit codes with which a rank ends without an error file."""
_SIGNALS = {
    signal.SIGKILL: "often the system's out-of-memory killer: lower train.max_tokens",
    signal.SIGABRT: "under CUDA often NCCL's watchdog after cluster.timeout: its log says why",
    signal.SIGBUS: "often a full /dev/shm: lower train.workers",
}
"""Causes of the signals that end a rank, and what to do."""
_RECURS = {
    "": "",
    "same error": "; it will not pass by itself",
    "no step": ", and two restarts in a row made no step; it will not pass by itself",
}
"""Ends of the sentence about a failure for which no restart helps."""


@dataclass(frozen=True)
class Failure:
    """A rank that failed.

    `code`: exit code, negative for a signal. `message`, `traceback`: empty if the rank wrote no error file, and nothing
    is known from its log. `time`: seconds since the epoch. `recurs`: why a restart would not help: the same error came
    back at the same step, or restarts made no step; empty: it may help. `hung`: it made no progress, and the message
    says so.
    """

    rank: int
    code: int
    message: str
    traceback: str
    time: int
    recurs: Literal["", "same error", "no step"] = ""
    hung: bool = False

    @property
    def echo(self) -> bool:
        """Whether this rank failed only because it lost another rank."""
        return (self.code >= 0 or self.code == -signal.SIGABRT) and lost_a_peer(self.message)

    @property
    def gave_up(self) -> bool:
        """Whether this rank may only have waited for another rank until the timeout.

        NCCL's watchdog then aborts the process.
        """
        return self.echo or (self.code == -signal.SIGABRT and not self.message)


@dataclass(frozen=True)
class RankLogs:
    """The logs of ranks. `sizes`: bytes of each log that were written before the ranks started, by file name."""

    folder: Path
    sizes: Mapping[str, int]

    @classmethod
    def now(cls, folder: Path) -> "RankLogs":
        """Return the logs in a folder, as they are before ranks start."""
        return cls(folder, {file.name: file.stat().st_size for file in folder.glob("rank*.log")})

    def cause(self, rank: int) -> str:
        """Return why the libraries of a rank have aborted it, from its log; empty: they wrote nothing that is known.

        NCCL's watchdog aborts the process after a timeout, and when a kernel has failed.
        """
        name = f"rank{rank}.log"
        try:
            with (self.folder / name).open("rb") as file:
                file.seek(max(self.sizes.get(name, 0), file.seek(0, os.SEEK_END) - _LAST_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        if found := list(_WATCHDOG.finditer(text)):
            operation, seconds = _OPERATION.search(found[-1][1]), int(found[-1][2]) / 1000
            what = f"its {operation[1] if operation else 'collective'} waited {seconds:.0f} s for another rank"
            return f"NCCL's watchdog caught collective operation timeout: {what} (cluster.timeout)"
        if _MISMATCH in text:
            return DIFFERENT_COLLECTIVES
        errors = _CUDA_ERROR.findall(text)
        return str(errors[-1]) if errors else ""


def lost_a_peer(message: str) -> bool:
    """Return whether an error message only means that another rank is gone."""
    return any(word in message.lower() for word in _LOST_PEER_WORDS)


def first(failures: Mapping[int, "ProcessFailure"], logs: RankLogs | None = None) -> Failure:
    """Return the failure that caused the others. `logs`: they may say why a rank was aborted.

    Failures of ranks that were killed or raised an error themselves come first, then failures of ranks that lost
    another rank, then ranks that the agent ended with SIGTERM. Among equals, the earliest is returned.
    """
    read = [_read(rank, failure, logs) for rank, failure in failures.items()]
    return min(read, key=lambda f: (f.code == -signal.SIGTERM, f.echo, f.time, f.rank))


def report(failure: Failure, logs: Path, resume: int | None, host: str = "") -> str:
    """Return the sentence, what to do, the log file and the rank's own traceback.

    `resume`: step of the newest checkpoint. `host`: of the rank, if there are several.
    """
    again = f"start it again and it goes on from step {resume}" if resume else "no checkpoint had been made yet"
    details = "".join(f"\n  {line}" for line in failure.traceback.strip().splitlines())
    dump = logs.parent / f"{paths.COLLECTIVES}{failure.rank}"
    last = f"\n  its last collectives: {dump} (torchfrtrace reads them)" if failure.echo and dump.is_file() else ""
    if failure.hung:
        last = f"\n  the stacks of all ranks: {logs}/{paths.STACKS}*.txt"
    return f"{sentence(failure, host)}; {again}\n  its log: {logs / f'rank{failure.rank}.log'}{last}{details}"


def sentence(failure: Failure, host: str = "") -> str:
    """Describe in one line what happened to the rank. `host`: of the rank, if there are several."""
    if failure.hung:
        return failure.message + _RECURS[failure.recurs]
    who = f"rank {failure.rank}" + (f" on {host}" if host else "")
    again, after = ("again ", " after a restart, with the same error") if failure.recurs == "same error" else ("", "")
    end = _RECURS[failure.recurs]
    if failure.code == -signal.SIGABRT and failure.message:
        return f"{who} was {again}aborted{after}: {failure.message}{end}"
    if failure.code < 0:
        return f"{who} was {again}killed{' after a restart' if again else ''} by {_signal(-failure.code)}{end}"
    step = next((line for line in failure.traceback.splitlines() if line.startswith("at step ")), "")
    what = failure.message or _EXPLANATIONS.get(failure.code, f"exit code {failure.code} {_NO_ERROR}")
    at = " ".join(filter(None, ("failed", again.strip(), step)))
    return f"{who} {at}{after}: {' '.join(what.split())}{end}"


def describe(error: BaseException) -> str:
    """Describe an error of this process in one line, with the step if it is known."""
    step = f" {error.__notes__[0]}" if getattr(error, "__notes__", None) else ""
    return f"failed{step}: {type(error).__name__}: {error}"


def explain_exit(error: BaseException) -> BaseException:
    """Return the error. A SystemExit that the code of a run has raised is replaced by a RuntimeError that says so."""
    if not isinstance(error, SystemExit):
        return error
    called = RuntimeError(f"its code called exit({'' if error.code is None else repr(error.code)})")
    for note in getattr(error, "__notes__", ()):
        called.add_note(note)
    return called.with_traceback(error.__traceback__)


def hung(hang: Hang) -> Failure:
    """Return the failure of a rank that the watchdog has found."""
    return Failure(hang.rank, 1, hang.sentence, "", int(time.time()), hung=True)


def with_positions(failure: Failure, positions: Sequence[Position]) -> Failure:
    """Return a failure with the positions of ranks if it says that they have called different collectives.

    The smallest group of ranks at one place comes first: it has probably left a collective out.
    """
    groups = dict[object, list[Position]]()
    for position in positions:
        groups.setdefault(position.progress, []).append(position)
    if failure.message != DIFFERENT_COLLECTIVES or len(groups) < 2:
        return failure
    ordered = sorted(groups.values(), key=lambda group: (len(group), [-value for value in group[0].progress]))
    where = ", ".join(f"{names([one.rank for one in group])} {group[0]}" for group in ordered)
    return replace(failure, message=f"{failure.message}: {where}")


def stalled(rank: int, where: str, seconds: float) -> Failure:
    """Return the failure of a rank that the others waited for until they gave up. `where`: its position."""
    what = f"it stood still {where} for {seconds:.0f} s, until the others gave up waiting (cluster.timeout)"
    return Failure(rank, 1, what, "", 0)


def _signal(number: int) -> str:
    known = signal.Signals(number)
    return f"{known.name} ({_SIGNALS[known]})" if known in _SIGNALS else known.name


def _read(rank: int, failure: "ProcessFailure", logs: RankLogs | None) -> Failure:
    message, traceback = "" if str(failure.message).startswith(_NO_ERROR_FILE) else failure.message, ""
    data = failure.error_file_data.get("message") if isinstance(failure.error_file_data, dict) else None
    if isinstance(data, dict):
        message, traceback = data.get("message", ""), data.get("extraInfo", {}).get("py_callstack", "")
    if failure.exitcode == -signal.SIGABRT:
        message = logs.cause(rank) if logs is not None else ""
    return Failure(rank, failure.exitcode, str(message), traceback, int(failure.timestamp))
