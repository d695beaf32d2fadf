"""A rank's batches, read ahead by processes of torch's DataLoader."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from torch.utils.data import DataLoader, Dataset

from launcher.config.recipe import Recipe
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.signals import SIGNALS, signal_on_parent_death
from launcher.train.data_loader import RankBatches
from launcher.train.rank_batch import RankBatch

T = TypeVar("T")


class BatchLoader:
    """A rank's batches of steps [start, stop), in order.

    `dataset`: computes them. `workers`: number of processes that compute ahead; `pin`: pin memory.
    """

    def __init__(self, dataset: RankBatches, start: int, stop: int, workers: int, pin: bool):
        self.dataset, self._steps, self._workers, self._pin = dataset, (start, stop), workers, pin

    def __iter__(self) -> Iterator[RankBatch]:
        step, stop = self._steps
        while step < stop:
            dataset = self.dataset
            for batch in loader(dataset, range(step, stop), self._workers, self._pin):
                yield batch
                step += 1
                if self.dataset is not dataset:
                    break  # what was computed ahead has other micro-batches

    def lower(self, max_tokens: int) -> bool:
        """Limit the tokens of the micro-batches of batches that are not loaded yet. Returns whether this is less than
        before."""
        before = self.dataset.max_tokens
        if before is not None and before <= max_tokens:
            return False
        self.dataset = replace(self.dataset, max_tokens=max_tokens)
        return True


def worker_processes(recipe: Recipe, process: ProcessGroup) -> int:
    """Return the number of loader processes of this rank. On a CPU it is 0 by default, because they would take cores
    from training."""
    if recipe.train.workers == "auto":
        return 0 if process.device.type == "cpu" else 2
    return recipe.train.workers


def loader(batches: Dataset[T], steps: Sequence[int], workers: int, pin: bool) -> DataLoader[T]:
    """Return a loader of these items of a dataset, in order. `workers`: number of processes that compute ahead; `pin`:
    pin memory."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
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
