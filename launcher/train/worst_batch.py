"""A trial of the largest micro-batch before the first step of a start, so that a lack of memory shows at once.

It leaves no trace: gradients are discarded, and buffers and random generators are as before.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from launcher.distributed.heartbeat import Stage
from launcher.train import out_of_memory
from launcher.train.copy_ahead import on_device
from launcher.train.padding_masks import padding_is_known
from launcher.train.precision import autocast
from launcher.train.rank_batch import RankBatch
from launcher.train.training_run import Run

_STEPS = 100
"""Steps of which the largest micro-batch is tried."""


def fits_by_trial(device: torch.device) -> bool:
    """Return whether a device refuses memory that it does not have. On a CPU the system ends a process instead."""
    return bool(device.type != "cpu")


def try_largest(run: Run) -> None:
    """Compute the largest micro-batch of the next steps on every rank, and discard its gradients. All ranks call it.

    If it does not fit on a rank, later micro-batches are smaller on all ranks, and the trial is repeated. Raises
    TooLarge if a micro-batch cannot be smaller, and where ranks compute it together.
    """
    steps = range(run.progress.step, min(run.progress.step + _STEPS, run.until))
    if not steps:
        return
    if run.progress.step == 0:
        run.engine.state_dict()  # creates the state of the optimiser, which takes memory from the first step on
    while True:
        batch, limit = run.batches.dataset.largest(steps), 0
        try:
            _compute(run, batch)
        except out_of_memory.DoesNotFit as found:
            limit = found.limit
        run.engine.clear()
        limits: list[int] = run.process.all_gather(np.array(limit)).tolist()
        if not any(limits):
            return
        run.batches.lower(max(limits))
        out_of_memory.release(run.process.device)
        if run.process.rank == 0:
            out_of_memory.record(run, max(limits))


def _compute(run: Run, batch: RankBatch) -> None:
    """Compute the gradients of a share with one micro-batch. Where ranks can, each computes it alone."""
    device, step = run.process.device, run.progress.step + 1
    together = run.engine.exchanges == "always"
    micro, rows = next(on_device([(batch.micro_batches[0], batch.rows[0])], device))
    with (
        _unchanged(run),
        out_of_memory.watched(run, batch, 0, last=together),
        run.randomness.drawing(rows),
        run.engine.accumulating(last=together) as model,
    ):
        run.heartbeat.beat(Stage.FORWARD, step)
        with autocast(run.recipe.train.precision, device), padding_is_known(micro):
            loss, _ = run.task.loss(model, micro)
        run.heartbeat.beat(Stage.BACKWARD, step)
        run.engine.backward(loss)


@contextmanager
def _unchanged(run: Run) -> Iterator[None]:
    """Restore buffers of the model and torch's random generators at the end of the context."""
    buffers = [(buffer, buffer.clone()) for buffer in run.engine.unwrapped.buffers()]
    device = run.process.device
    with torch.random.fork_rng([] if device.type == "cpu" else [device.index], device_type=device.type):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
