"""Micro-batches that do not fit into the memory of a device are computed again in smaller ones.

Losses and gradients are sums over samples, so that the trajectory does not change. The rank that failed starts its
share of the step again, if it exchanges nothing with other ranks meanwhile. Otherwise the others wait in a collective
that it cannot reach: then the lower limit is recorded for the next start, and the rank fails.
"""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from launcher.distributed import device_errors
from launcher.sinks import warn
from launcher.storage import token_limit
from launcher.train.rank_batch import RankBatch
from launcher.train.step_sync import StepInfo
from launcher.train.training_run import Run

_log = logging.getLogger(__name__)


class DoesNotFit(Exception):
    """A micro-batch does not fit, and this rank may compute its share again. `limit`: maximum tokens of smaller
    micro-batches."""

    def __init__(self, limit: int):
        super().__init__(f"micro-batches of more than {limit} tokens do not fit")
        self.limit = limit


class TooLarge(RuntimeError):
    """A micro-batch does not fit, and this rank cannot compute it in smaller ones. The message is that of the library,
    which says that memory could not be allocated. `tokens`: of the micro-batch. `next_limit`: maximum tokens of
    micro-batches from the next start on; None: it holds no more than a sample of maximum length."""

    def __init__(self, error: BaseException, tokens: int, next_limit: int | None):
        super().__init__(str(error) or "out of memory")
        self.tokens, self.next_limit = tokens, next_limit


@contextmanager
def watched(run: Run, batch: RankBatch, number: int, last: bool) -> Iterator[None]:
    """Replace an error of the device that has no memory left, in the forward or the backward of a micro-batch.

    `number`: of the micro-batch in its share; `last`: of the step. Raises DoesNotFit, or TooLarge if it cannot be
    smaller, or other ranks may wait for this one.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or device_errors.is_out_of_memory(str(error))):
            raise
        tokens = batch.positions[number]
        limit = max(run.batches.dataset.longest_row, tokens // 2)
        if limit >= tokens:
            raise TooLarge(error, tokens, None) from error
        if _is_alone(run, last):
            raise DoesNotFit(limit) from error
        token_limit.lower(run.folder, run.recipe, run.process.world, limit)
        raise TooLarge(error, tokens, limit) from error


def _is_alone(run: Run, last: bool) -> bool:
    """Return whether no rank waits for this one in a micro-batch. `last`: of the step.

    DDP prepares the reduction of a step when the forward of its last micro-batch ends, and the loss is computed after
    that. So the backward of a repeated micro-batch would reduce gradients too early.
    """
    return run.engine.exchanges == "never" or (run.engine.exchanges == "in the last backward" and not last)


def smaller(run: Run, limit: int) -> RankBatch:
    """Return this rank's share of the current step in micro-batches of at most `limit` tokens, after the gradients of
    the failed attempt have been discarded. Later steps have the limit too."""
    run.engine.clear()
    release(run.process.device)
    run.batches.lower(limit)
    run.progress.out_of_memory += 1
    step, rank = run.progress.step, run.process.rank
    if rank == 0:
        record(run, limit)
    _log.warning("step %d: a micro-batch of rank %d did not fit: from now on at most %d tokens", step + 1, rank, limit)
    return run.batches.dataset[step]


def agree(run: Run, info: StepInfo) -> None:
    """Limit the micro-batches of later steps as on the rank with the lowest limit. All ranks call it. Rank 0 reports
    the limit of another rank, and records it for later starts."""
    if info.max_tokens and run.batches.lower(info.max_tokens) and run.process.rank == 0:
        record(run, info.max_tokens)


def record(run: Run, limit: int) -> None:
    """Report a lower limit of micro-batches, and record it for later starts, as rank 0."""
    if token_limit.lower(run.folder, run.recipe, run.process.world, limit):
        warn(f"a micro-batch did not fit into memory: from now on they have at most {limit} tokens")


def release(device: torch.device) -> None:
    """Return unused memory to the device, which an allocator may hold in pieces of other sizes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
