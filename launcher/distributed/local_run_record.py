"""Record a start on this machine in the run's job log, so that a run started by hand reports its end as a job does."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from launcher.config.errors import UserError
from launcher.config.strict_json import shown
from launcher.distributed import failure
from launcher.distributed.exit_codes import DONE, FAILED, STOPPED
from launcher.distributed.signals import StopReason
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir

_LONGEST_ERROR = 400
"""Maximum number of characters of a recorded error."""


class LocalStart:
    """One start in the job log. Events that cannot be written, as on a full disk, are left out."""

    def __init__(self, folder: RunDir, ranks: int):
        self._folder, self._ended = folder, False
        self._append("started", nodes=[socket.gethostname()], ranks=ranks)

    def end(self, code: int, reason: StopReason, error: str = "", rank: int | None = None) -> None:
        """Record the end, once. `reason`: why the run ended early. `rank`: the rank that failed first."""
        if self._ended:
            return
        self._ended = True
        known = {} if rank is None or rank < 0 else {"rank": rank}
        line = shown(" ".join(error.split()), _LONGEST_ERROR)
        self._append("ended", code=code, why=_why(code, reason), error=line, **known)

    def _append(self, event: str, **details: object) -> None:
        complete = self._folder.whole()
        with suppress(OSError):
            step = complete[-1].step if complete else 0
            job_log.append(self._folder, {"event": event, "job": job_log.BY_HAND, "start": 0, "step": step, **details})


@contextmanager
def recorded(folder: RunDir, ranks: int) -> Iterator[LocalStart]:
    """Record a start at the beginning of the block, and its end after it. If the block raises, the start has failed."""
    start = LocalStart(folder, ranks)
    try:
        yield start
    except BaseException as error:
        start.end(FAILED, StopReason.NONE, _describe(failure.explain_exit(error)))
        raise
    start.end(DONE, StopReason.NONE)


def _describe(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    if failure.lost_a_peer(str(error)):
        return "a rank lost another, whose own log says why"
    return failure.describe(error)


def _why(code: int, reason: StopReason) -> str:
    if reason is StopReason.REPLACED:
        return "replaced"
    if code == STOPPED:
        return "time" if reason is StopReason.MAKE_WAY else "told"
    return "failed" if code else "done"
