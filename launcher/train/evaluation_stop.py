"""Stop requests during an evaluation, which may take longer than the time that is left."""

import time
from collections.abc import Iterable, Iterator

import numpy as np

from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.signals import StopReason
from launcher.distributed.stop_requests import StopMonitor
from launcher.train.evaluation import Part

_SECONDS = 1.0
"""Seconds between two exchanges of the ranks."""
_MOST = 1000
"""Maximum number of micro-batches between two exchanges, because later ones may be longer than the first."""


class EvaluationStopped(Exception):
    """All ranks have agreed to leave in the middle of an evaluation, which is then due again."""


def until_stop(parts: Iterable[Part], process: ProcessGroup, stop: StopMonitor) -> Iterator[Part]:
    """Yield the micro-batches of this rank. Raises EvaluationStopped on all ranks if any of them has to stop.

    All ranks have the same number of micro-batches. They exchange their requests after the first one, and then about
    once a second: the slowest rank's time decides after how many micro-batches.
    """
    left, between, begin = 1, 1, time.monotonic()
    for part in parts:
        yield part
        left -= 1
        if left:
            continue
        own = np.array((float(stop.requested()), time.monotonic() - begin))
        ranks = process.all_gather(own)
        reason, seconds = StopReason(int(ranks[:, 0].max())), float(ranks[:, 1].max())
        if reason is not StopReason.NONE:
            stop.agree(reason)
            raise EvaluationStopped
        left = between = int(np.clip(between * _SECONDS / max(seconds, 1e-6), 1, min(2 * between, _MOST)))
        begin = time.monotonic()
