"""A start on this machine alone, in the run's story: a run that was started by hand reports its end as a job does."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from launcher.config.errors import UserError
from launcher.config.strict_json import shown
from launcher.distributed import failure
from launcher.distributed.signals import STOPPED, Reason
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir

_LONGEST = 400
"""Characters of an error that are kept."""


class LocalStart:
    """One start. What cannot be written, as on a full disk, is left out."""

    def __init__(self, folder: RunDir, ranks: int):
        self._folder, self._ended = folder, False
        self._append("started", nodes=[socket.gethostname()], ranks=ranks)

    def end(self, code: int, reason: Reason, error: str = "", rank: int | None = None) -> None:
        """`reason`: why it left before its end. `error`: what went wrong, and on which rank first."""
        if self._ended:
            return
        self._ended = True
        known = {} if rank is None or rank < 0 else {"rank": rank}
        line = shown(" ".join(error.split()), _LONGEST)
        self._append("ended", code=code, why=_why(code, reason), error=line, **known)

    def _append(self, event: str, **what: Any) -> None:
        whole = self._folder.whole()
        with suppress(OSError):
            step = whole[-1].step if whole else 0
            job_log.append(self._folder, {"event": event, "job": job_log.BY_HAND, "start": 0, "step": step, **what})


@contextmanager
def recorded(folder: RunDir, ranks: int) -> Iterator[LocalStart]:
    """A start from here to the end of the block, which has failed where that raises."""
    start = LocalStart(folder, ranks)
    try:
        yield start
    except BaseException as caught:
        start.end(1, Reason.NONE, _text(failure.of_exit(caught)))
        raise
    start.end(0, Reason.NONE)


def _text(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    if failure.lost_a_peer(str(error)):
        return "a rank lost another, whose own log says why"
    return failure.described(error)


def _why(code: int, reason: Reason) -> str:
    if reason is Reason.REPLACED:
        return "replaced"
    if code == STOPPED:
        return "time" if reason is Reason.MAKE_WAY else "told"
    return "failed" if code else "done"
