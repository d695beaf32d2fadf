"""When the next checkpoint is due by the clock."""

import time
from dataclasses import dataclass, field

from launcher.config.training import AUTO, CONTINUOUS, Checkpoint
from launcher.plan.checkpoint_interval import LEAST_COST, optimal
from launcher.plan.run_estimates import duration

FIRST_SECONDS = 30.0
"""Seconds of training before the first save of `every: auto`, which measures the cost."""
RETRY_SECONDS = 60.0
"""Seconds after a failed save before the next attempt."""
_MUCH = 1.25
"""Change of the interval of `every: auto` that is reported, as a factor."""


@dataclass
class CheckpointPace:
    """Measures the saves of a run, and decides when the next one is due by the clock of this rank.

    `between_failures`: mean seconds between failures of the job. `since`: when the last save began, or the run.
    `retry_at`: when a failed save is tried again; None: the last one did not fail.
    """

    config: Checkpoint
    between_failures: float
    since: float = field(default_factory=time.monotonic)
    retry_at: float | None = None
    _cost: float = 0.0
    _duration: float = 0.0
    _reported: float = 0.0

    def due(self) -> bool:
        """Return whether a save should begin now."""
        now, interval = time.monotonic(), self.interval
        if self.retry_at is not None:
            return now >= self.retry_at
        return interval is not None and now - self.since >= interval

    @property
    def interval(self) -> float | None:
        """Seconds between the beginnings of two saves; None: saves follow the steps, or only the end."""
        if self.config.every == CONTINUOUS:
            return 0.0
        if self.config.every != AUTO:
            return self.config.interval
        if not self._duration:
            return FIRST_SECONDS
        return max(self._duration, optimal(max(self._cost, LEAST_COST), self.between_failures))

    def begun(self) -> None:
        """Record that a save begins."""
        self.since, self.retry_at = time.monotonic(), None

    def failed(self) -> None:
        """Record that the save has failed."""
        self.retry_at = time.monotonic() + RETRY_SECONDS

    def postponed(self) -> None:
        """Record that a save could not begin. The next one is due at once."""
        self.retry_at = time.monotonic()

    def complete(self, blocked: float, seconds: float) -> str | None:
        """Record that the save is complete. `blocked`: seconds that training waited for it; `seconds`: that it took.

        Returns a sentence on the interval of `every: auto` if it has changed much, else None.
        """
        self._cost, self._duration = (blocked, seconds) if not self._duration else (
            (self._cost + blocked) / 2, (self._duration + seconds) / 2,
        )  # fmt: skip
        interval = self.interval
        if self.config.every != AUTO or interval is None:
            return None
        if self._reported and 1 / _MUCH < interval / self._reported < _MUCH:
            return None
        self._reported = interval
        cost = max(self._cost, LEAST_COST)
        return (
            f"checkpoint.every: auto: a checkpoint every {duration(interval)}: a save costs {cost:.1f} s (training "
            f"waited {blocked:.2f} s, it took {seconds:.1f} s) and a failure comes every "
            f"{duration(self.between_failures)}: sqrt(2 x cost x time between failures), to a higher order (Daly, 2006)"
        )
