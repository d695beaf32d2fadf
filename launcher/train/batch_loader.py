"""A rank's batches, read ahead by processes of torch's DataLoader."""

import signal
from typing import TypeVar

from torch.utils.data import DataLoader

from launcher.distributed.signals import SIGNALS, signal_on_parent_death
from launcher.train.data_loader import RankBatches
from launcher.train.rank_batch import RankBatch

T = TypeVar("T")


def loader(batches: RankBatches, start: int, stop: int, workers: int, pin: bool) -> DataLoader[RankBatch]:
    """Return a loader of the batches of steps [start, stop), in order. `workers`: number of processes that compute
    ahead; `pin`: pin memory."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        collate_fn=_as_is,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers else None,  # a rank's default is the launcher's fork server
        worker_init_fn=_leave_signals_to_the_rank,
    )


def _leave_signals_to_the_rank(worker: int) -> None:
    signal_on_parent_death(signal.SIGKILL)  # a worker that hangs would outlive its rank
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _as_is(item: T) -> T:
    return item
