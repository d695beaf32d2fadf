"""Rows without padding in evaluations and predictions, after a test that outputs stay the same.

An evaluation has no dropout. So on an accelerator it may have a kernel for sequences where training has none.
"""

from dataclasses import replace

import numpy as np
import torch

from launcher.config.errors import first_line
from launcher.config.training import Train
from launcher.distributed.process_group import ProcessGroup
from launcher.plan.model_spec import attention_dropout
from launcher.tasks import Batch, Task
from launcher.train import padding_free
from launcher.train.data_loader import RankBatches, to
from launcher.train.evaluation import Parts
from launcher.train.precision import COMPUTED, autocast


def adapt(
    model: torch.nn.Module,
    task: Task,
    parts: Parts,
    train: Train,
    process: ProcessGroup,
    training: RankBatches | None = None,
) -> tuple[Parts, list[str]]:
    """Return the micro-batches of an evaluation without padding if the outputs of the model stay the same; else
    unchanged, with a note if it is because of the model. The decision is the same on all ranks.

    `training`: the batches that `padding_free.adapt` has returned for this model; None: it has not been tested.
    """
    free = replace(parts, padding_free=True, joined=False)
    if parts.equal_lengths or train.padding_free is False or train.compile or not task.padding_free:
        return parts, []
    if training is not None and (training.padding_free or _tested(model, process.device)):
        return (free if training.padding_free else parts), []
    hooks, reason = None, padding_free.without_kernel(model, train.precision, process.device, dropout=False)
    try:
        if not reason:
            padding_free.check_task(task)
            padded, row = _shortest_and_longest(parts)
            examples = padding_free.examples(padded["inputs"], task, process.device)
            hooks = padding_free.attach(model, *examples, train.precision)
            reason = _other_predictions(model, task, (padded, row), train.precision, process.device)
    except padding_free.Inexact as inexact:
        reason = str(inexact)
    reason = next(filter(None, process.all_gather_objects(reason)), "")
    if not reason:
        return free, []
    if hooks is not None:
        hooks.remove()
    return parts, [f"samples of different lengths are padded: {reason}"]


def _tested(model: torch.nn.Module, device: torch.device) -> bool:
    """Return whether a training whose rows are padded has tested the model. It does not where attention with dropout
    has no kernel."""
    return device.type == "cpu" or not attention_dropout(getattr(model, "config", None))


def _shortest_and_longest(parts: Parts) -> tuple[Batch, Batch]:
    """Return a micro-batch of two samples in padded rows, and in one row, on the host."""
    ids = np.array([parts.lengths.argmin(), parts.lengths.argmax()])
    rows = replace(parts, joined=False)
    return rows.padded(ids), rows.side_by_side(ids)


@torch.no_grad()  # type: ignore[untyped-decorator]
def _other_predictions(
    model: torch.nn.Module, task: Task, batches: tuple[Batch, Batch], precision: str, device: torch.device
) -> str:
    """Return how a task's losses of samples in one row differ from those in padded rows; empty: not beyond rounding.
    `batches`: of the same samples, in padded rows and in one row."""
    full = "fp64" if next(model.parameters()).dtype == torch.float64 else "fp32"
    kind = precision if precision in COMPUTED and device.type != "cpu" else full  # some kernels take no fp32
    training = model.training
    model.eval()
    try:
        with autocast(kind, device):
            expected, found = (task.predict(model, to(batch, device))["loss"].double() for batch in batches)
    except Exception as error:  # a task of the user's own may raise anything
        return f"{type(task).__module__} predicts no rows without padding: {first_line(error)[:160]}"
    finally:
        model.train(training)
    scale = expected.abs().max().clamp(min=1.0)
    off = float((found - expected).abs().max() / scale) if found.shape == expected.shape else float("inf")
    what = f"{type(task).__module__} has other losses in a row without padding ({off:.1g} off in {kind})"
    return "" if off <= padding_free.TOLERANCE[kind] else what
