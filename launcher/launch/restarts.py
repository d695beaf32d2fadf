"""Restarts of the ranks within a start: failures that would only return, and the time until training continues."""

import logging
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal

from launcher.config import env_vars
from launcher.config.strict_json import shown
from launcher.distributed import failure
from launcher.distributed.failure import Failure
from launcher.distributed.heartbeat import Position
from launcher.launch import RendezvousSpec
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir

Why = Literal["failed", "node", "joined"]
"""Why ranks are started again: one has failed, a node is lost, or a node has joined."""
_LONGEST_ERROR = 400
"""Maximum number of characters of a recorded error."""
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")

_log = logging.getLogger(__name__)


class Recurrence:
    """Tells failures that return from passing ones. It is asked about each failure of a start, in their order.

    An error that a rank raises at the same step as before, after a restart, is permanent. A signal from outside, or the
    loss of a peer, counts as permanent the second time that it returns at the same step. So does anything that lets two
    restarts in a row end without a step.
    """

    def __init__(self) -> None:
        self._last: tuple[int, str, int] | None = None
        self._repeats = self._without_step = 0

    def judge(self, failed: Failure, step: int, stepped: bool) -> Failure:
        """Return the failure, marked if it would only return. `step`: the step that the rank computed. `stepped`:
        whether a step was completed since the ranks were started."""
        is_restart = self._last is not None
        this = (failed.rank, _NUMBERS.sub("#", failure.sentence(failed)), step)
        self._repeats = self._repeats + 1 if this == self._last else 0
        self._without_step = self._without_step + 1 if is_restart and not stepped else 0
        self._last = this
        raised = bool(failed.message) and failed.code >= 0 and not failed.echo
        if self._repeats >= (1 if raised else 2):
            return replace(failed, recurs="same error")
        return replace(failed, recurs="no step") if self._without_step >= 2 else failed


class RestartLog:
    """Events of restarts in the run's job log, and one line on the console when training continues.

    Of several nodes, only the first one writes, so that each restart is one event. An event that cannot be written, as
    on a full disk, is left out.
    """

    def __init__(self, run: RunDir, spec: RendezvousSpec):
        self._run, self._writes = run, spec.index == 0
        self._job, self._start = job_log.BY_HAND, 0
        if spec.port:
            self._job, self._start = os.environ[env_vars.JOB], int(os.environ.get(env_vars.START) or 0)
        self._died: float | None = None
        self._begun = ""
        self.stepped = False
        """Whether a step was completed since the ranks were started."""

    def restart(self, why: Why, failed: Failure | None, step: int, attempt: int) -> None:
        """Record that the ranks are about to be started again. `failed`: the rank that failed first. `step`: the step
        that it computed. `attempt`: number of this restart."""
        self._died, at = time.monotonic(), time.strftime("%H:%M:%S")
        ended = "a node has joined" if why == "joined" else "a node was lost"
        self._begun = f"{ended} at {at}" if failed is None else f"rank {failed.rank} died at {at}"
        error = "" if failed is None else shown(" ".join(failure.sentence(failed).split()), _LONGEST_ERROR)
        known = {} if failed is None or failed.rank < 0 else {"rank": failed.rank}
        self._append("restarted", why=why, step=step, attempt=attempt, error=error, **known)

    def begin(self) -> None:
        """Start to observe ranks that have just been started."""
        self.stepped = False

    def observe(self, positions: Sequence[Position], stepped: bool) -> None:
        """Note that all ranks of this machine have completed a step. After a restart, report it."""
        if self.stepped or not stepped:
            return
        self.stepped = True
        if self._died is not None:
            last = min(position.taken for position in positions)
            self._report(last, time.monotonic() - self._died)

    def _report(self, step: int, seconds: float) -> None:
        self._died = None
        self._append("resumed", step=step, seconds=round(seconds, 3))
        if self._writes:
            _log.info("%s; step %d after %.1f s", self._begun, step, seconds)

    def _append(self, event: str, **details: object) -> None:
        if self._writes:
            with suppress(OSError):
                job_log.append(self._run, {"event": event, "job": self._job, "start": self._start, **details})
