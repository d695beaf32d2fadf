"""Find the rank that failed first, and report it: one sentence, what to do, then the details."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    # torch's stores
    "socket timeout", "wait timeout", "connection was likely closed", "remote peer closed the connection",
)  # fmt: skip
"""Parts of the messages, in lower case, that libraries raise in a rank after another rank is gone."""
_NO_ERROR_FILE = "To enable traceback see"
"""Beginning of torch's message for a rank that died before it could write an error file."""

_NO_ERROR = "before it could say why (look at what was printed before)"
_EXPLANATIONS = {
    0: "it left with exit code 0 before the others had finished (does its code call exit?)",
    255: "the server that it was forked from is gone (killed, for want of memory?)",
}
"""Explanations of exit codes with which a rank ends without an error file."""


@dataclass(frozen=True)
class Failure:
    """A rank that failed.

    `code`: exit code, negative for a signal. `message`, `traceback`: empty if the rank wrote no error file. `time`:
    seconds since the epoch.
    """

    rank: int
    code: int
    message: str
    traceback: str
    time: int

    @property
    def echo(self) -> bool:
        """Whether this rank failed only because it lost another rank."""
        return self.code >= 0 and lost_a_peer(self.message)

    @property
    def gave_up(self) -> bool:
        """Whether this rank may only have waited for another rank until the timeout.

        NCCL's watchdog then aborts the process.
        """
        return self.echo or self.code == -signal.SIGABRT


def lost_a_peer(message: str) -> bool:
    """Return whether an error message only means that another rank is gone."""
    return any(word in message.lower() for word in _LOST_PEER_WORDS)


def first(failures: Mapping[int, "ProcessFailure"]) -> Failure:
    """Return the failure that caused the others.

    Failures of ranks that were killed or raised an error themselves come first, then failures of ranks that lost
    another rank, then ranks that the agent ended with SIGTERM. Among equals, the earliest is returned.
    """
    read = [_read(rank, failure) for rank, failure in failures.items()]
    return min(read, key=lambda f: (f.code == -signal.SIGTERM, f.echo, f.time, f.rank))


def report(failure: Failure, logs: Path, resume: int | None) -> str:
    """Return the sentence, what to do, the log file and the rank's own traceback.

    `resume`: step of the newest checkpoint.
    """
    again = f"start it again and it goes on from step {resume}" if resume else "no checkpoint had been made yet"
    details = "".join(f"\n  {line}" for line in failure.traceback.strip().splitlines())
    return f"{sentence(failure)}; {again}\n  its log: {logs / f'rank{failure.rank}.log'}{details}"


def sentence(failure: Failure) -> str:
    """Describe in one line what happened to the rank."""
    if failure.code < 0:
        return f"rank {failure.rank} was killed by {_signal(-failure.code)}"
    step = next((line for line in failure.traceback.splitlines() if line.startswith("at step ")), "")
    what = failure.message or _EXPLANATIONS.get(failure.code, f"exit code {failure.code} {_NO_ERROR}")
    return f"rank {failure.rank} failed{' ' + step if step else ''}: {' '.join(what.split())}"


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


def stalled(rank: int, where: str, seconds: float) -> Failure:
    """Return the failure of a rank that the others waited for until they gave up. `where`: its position."""
    what = f"it stood still {where} for {seconds:.0f} s, until the others gave up waiting (cluster.timeout)"
    return Failure(rank, 1, what, "", 0)


def _signal(number: int) -> str:
    name = signal.Signals(number).name
    memory = " (often the system's out-of-memory killer: lower train.max_tokens)"
    return name + (memory if number == signal.SIGKILL else "")


def _read(rank: int, failure: "ProcessFailure") -> Failure:
    message, traceback = "" if str(failure.message).startswith(_NO_ERROR_FILE) else failure.message, ""
    data = failure.error_file_data.get("message") if isinstance(failure.error_file_data, dict) else None
    if isinstance(data, dict):
        message, traceback = data.get("message", ""), data.get("extraInfo", {}).get("py_callstack", "")
    return Failure(rank, failure.exitcode, str(message), traceback, int(failure.timestamp))
