"""Reports that no rank of this machine has moved on for a while, and which of them the others wait for."""

import sys
import time

from launcher.distributed import heartbeat

SILENCE = 60.0
"""Seconds without a beat of any rank after which this is reported."""
_LONG_STEP = 5
"""A rank is not called silent before so many times the longest pause between beats so far."""


class StallReport:
    """Watches the beats of one attempt."""

    def __init__(self) -> None:
        self._newest, self._longest, self._reported = 0.0, 0.0, 0.0

    def look(self, positions: list[heartbeat.Position]) -> None:
        """`positions`: of all ranks of this machine that have begun."""
        begun = [position for position in positions if position.stage is not heartbeat.Stage.STARTING]
        newest = max((position.time for position in begun), default=0.0)
        if newest > self._newest:
            if self._newest:
                self._longest = max(self._longest, newest - self._newest)
            self._newest, self._reported = newest, 0.0
            return
        silent = time.monotonic() - newest
        if begun and silent > max(SILENCE, _LONG_STEP * self._longest, 2 * self._reported):
            self._reported = silent
            print(f"note: {sentence(positions, silent)}", file=sys.stderr, flush=True)


def sentence(positions: list[heartbeat.Position], seconds: float) -> str:
    """Which ranks are behind."""
    behind = heartbeat.behind(positions)
    names = ", ".join(str(position.rank) for position in behind)
    who = f"rank {names} is" if len(behind) == 1 else f"ranks {names} are"
    waiting = "; the others wait" if len(behind) < len(positions) else ""
    return f"no rank has moved on for {seconds:.0f} s: {who} {behind[0]}{waiting}"
