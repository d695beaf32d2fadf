"""Ranks that are slower than the others, from the seconds that each spends in its own data and forward pass.

Waiting for other ranks happens in later stages of a step, in which a slow rank makes all ranks slow alike.
"""

import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from launcher.distributed.launch_env import host_name
from launcher.distributed.process_group import ProcessGroup
from launcher.sinks import Record

WINDOW = 50
"""Number of steps over which ranks are compared."""
RECORDED = 10
"""Number of steps over which the times of ranks are recorded."""
_FACTOR = 1.5
"""A rank is slow if it takes this many times the median of all ranks."""
_SHARE = 0.05
"""A rank is slow only if the difference is at least this share of the time of a step."""
_QUIET_WINDOWS = 20
"""Number of windows for which a rank that has been named is not named again."""

_log = logging.getLogger(__name__)


@dataclass
class Stragglers:
    """Compares the ranks, on rank 0. `names`: rank, host and device of each. `window`: number of steps."""

    names: Sequence[str]
    window: int = WINDOW
    _steps: int = 0
    _begin: tuple[float, Sequence[float]] = (0.0, ())
    _recorded: Sequence[float] = ()
    _named: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, process: ProcessGroup) -> "Stragglers | None":
        """Return the comparison of a group's ranks, on rank 0. All ranks call it."""
        kind = process.device.type
        device = kind if process.device.index is None else f"{kind}:{process.device.index}"
        names = process.all_gather_objects(f"rank {process.rank} on {host_name()} ({device})")
        return cls(names) if process.rank == 0 and process.world > 1 else None

    def add(self, own: Sequence[float]) -> Record:
        """Add a step, and log the ranks that are slow over a whole window. Return, after every `RECORDED` steps, how
        many milliseconds of a step the ranks spent in their own data and forward passes: the least, the median and the
        most of any rank, and the rank with the most. `own`: seconds of each rank in them since its start."""
        if self._steps % self.window == 0:
            now = time.monotonic()
            if self._steps:
                self._compare([end - begin for begin, end in zip(self._begin[1], own, strict=True)], now)
            self._begin = now, own
        record: Record = {}
        if self._steps % RECORDED == 0:
            record = _spread(self._recorded, own) if self._steps else {}
            self._recorded = own
        self._steps += 1
        return record

    def _compare(self, own: Sequence[float], now: float) -> None:
        median = sorted(own)[(len(own) - 1) // 2]
        least, number = _SHARE * (now - self._begin[0]), self._steps // self.window
        for rank, seconds in enumerate(own):
            if seconds <= max(_FACTOR * median, median + least) or number < self._named.get(rank, 0):
                continue
            self._named[rank] = number + _QUIET_WINDOWS
            _log.warning(
                "note: %s takes %.1f times the median of all ranks for data and forward: %.1f ms a step, not %.1f, "
                "over %d steps", self.names[rank], seconds / max(median, 1e-9), 1e3 * seconds / self.window,
                1e3 * median / self.window, self.window,
            )  # fmt: skip


def _spread(begin: Sequence[float], end: Sequence[float]) -> Record:
    spent = [1e3 * (after - before) / RECORDED for before, after in zip(begin, end, strict=True)]
    most = max(spent)
    values = {"rank_ms/least": min(spent), "rank_ms/median": statistics.median(spent), "rank_ms/most": most}
    return {**{name: round(value, 3) for name, value in values.items()}, "slowest_rank": spent.index(most)}
