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
    log = logs / f"rank{failure.rank}.log"
    again = f"start it again and it goes on from step {resume}" if resume else "no checkpoint had been made yet"
    if failure.code < 0:
        name = signal.Signals(-failure.code).name
        oom = (
            " (often the system's out-of-memory killer: lower train.max_tokens)"
            if failure.code == -signal.SIGKILL
            else ""
        )
        return f"rank {failure.rank} was killed by {name}{oom}; {again}\n  its log: {log}"
    step = next((line for line in failure.traceback.splitlines() if line.startswith("at step ")), "")
    what = failure.message or f"exit code {failure.code} before it could say why (look at what was printed before)"
    head = f"rank {failure.rank} failed{' ' + step if step else ''}: {what}; {again}"
    details = "".join(f"\n  {line}" for line in failure.traceback.strip().splitlines())
    return f"{head}\n  its log: {log}{details}"


def _read(rank: int, failure: Any) -> Failure:
    message, traceback = "" if str(failure.message).startswith(_NOTHING_SAID) else failure.message, ""
    data = failure.error_file_data.get("message") if isinstance(failure.error_file_data, dict) else None
    if isinstance(data, dict):
        message, traceback = data.get("message", ""), data.get("extraInfo", {}).get("py_callstack", "")
    return Failure(rank, failure.exitcode, str(message), traceback, int(failure.timestamp))
