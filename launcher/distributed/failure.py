"""Which rank failed first, and how to say it: one sentence, what to do, then the details."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ECHOES = (
    "connection closed by peer",
    "connection reset",
    "connection refused",
    "broken pipe",
    "socket timeout",
    "gloo",
)
_NOTHING_SAID = "To enable traceback see"
"""What torch puts in the place of an error of a rank that died before it was ready to tell one."""

_BEFORE = "before it could say why (look at what was printed before)"
_SILENT = {
    0: "it left with exit code 0 before the others had finished (does its code call exit?)",
    255: "the server that it was forked from is gone (killed, for want of memory?)",
}
"""What is known of a rank that ended with this code and left no error."""


@dataclass(frozen=True)
class Failure:
    """`code`: exit code, negative for a signal. `traceback` is empty where the rank could not say anything."""

    rank: int
    code: int
    message: str
    traceback: str
    time: int

    @property
    def echo(self) -> bool:
        """Whether this rank only lost another: not the cause."""
        return self.code >= 0 and lost_a_peer(self.message)


def lost_a_peer(message: str) -> bool:
    """Whether an error says no more than that another rank is gone."""
    return any(word in message.lower() for word in _ECHOES)


def first(failures: Mapping[int, Any]) -> Failure:
    """The cause among torch's ProcessFailures by rank: who was killed or raised by itself before who lost a peer. One
    that the agent ended with SIGTERM, after another had failed, comes last."""
    found = [_read(rank, failure) for rank, failure in failures.items()]
    return min(found, key=lambda f: (f.code == -signal.SIGTERM, f.echo, f.time, f.rank))


def say(failure: Failure, logs: Path, resume: int | None) -> str:
    """The sentence, what to do, and the rank's own traceback."""
    again = f"start it again and it goes on from step {resume}" if resume else "no checkpoint had been made yet"
    details = "".join(f"\n  {line}" for line in failure.traceback.strip().splitlines())
    return f"{sentence(failure)}; {again}\n  its log: {logs / f'rank{failure.rank}.log'}{details}"


def sentence(failure: Failure) -> str:
    """What happened to the rank, in one line."""
    if failure.code < 0:
        return f"rank {failure.rank} was killed by {_signal(-failure.code)}"
    step = next((line for line in failure.traceback.splitlines() if line.startswith("at step ")), "")
    what = failure.message or _SILENT.get(failure.code, f"exit code {failure.code} {_BEFORE}")
    return f"rank {failure.rank} failed{' ' + step if step else ''}: {' '.join(what.split())}"


def described(error: BaseException) -> str:
    """An error of this process in one line, with the step where it is known."""
    step = f" {error.__notes__[0]}" if getattr(error, "__notes__", None) else ""
    return f"failed{step}: {type(error).__name__}: {error}"


def of_exit(error: BaseException) -> BaseException:
    """The error, or for an exit that the code of a run called, one that says so."""
    if not isinstance(error, SystemExit):
        return error
    called = RuntimeError(f"its code called exit({'' if error.code is None else repr(error.code)})")
    for note in getattr(error, "__notes__", ()):
        called.add_note(note)
    return called.with_traceback(error.__traceback__)


def stood_still(rank: int, where: str, seconds: float) -> Failure:
    """A rank that the others have waited for until they gave up."""
    what = f"it stood still {where} for {seconds:.0f} s, until the others gave up waiting (cluster.timeout)"
    return Failure(rank, 1, what, "", 0)


def _signal(number: int) -> str:
    name = signal.Signals(number).name
    memory = " (often the system's out-of-memory killer: lower train.max_tokens)"
    return name + (memory if number == signal.SIGKILL else "")


def _read(rank: int, failure: Any) -> Failure:
    message, traceback = "" if str(failure.message).startswith(_NOTHING_SAID) else failure.message, ""
    data = failure.error_file_data.get("message") if isinstance(failure.error_file_data, dict) else None
    if isinstance(data, dict):
        message, traceback = data.get("message", ""), data.get("extraInfo", {}).get("py_callstack", "")
    return Failure(rank, failure.exitcode, str(message), traceback, int(failure.timestamp))
