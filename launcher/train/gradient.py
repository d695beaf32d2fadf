"""The gradient of a global batch: accumulation over micro-batches, loss scale, non-finite gradients."""

import math

import numpy as np
import torch

from launcher.config.recipe import Recipe
from launcher.contract.random import Stream, seed_for
from launcher.distributed.heartbeat import Stage
from launcher.train.data_loader import RankBatch, to
from launcher.train.precision import autocast
from launcher.train.training_run import Run


class StaysNonFinite(RuntimeError):
    """The gradient was infinite or NaN in too many steps in a row."""


def compute(run: Run, batch: RankBatch, weight: float) -> tuple[float, float]:
    """Compute the gradient of the global batch, and return its loss and the norm of the gradient.

    Both numbers are without the loss scale, which the engine's gradients still contain. If fp16 gradients overflow, the
    same batch is computed again with half the scale, so that the scale does not affect which batches train the model.
    `weight`: weight of the global batch.
    """
    scale = run.progress.scale
    before = scale.value
    while True:
        # seeds draws outside the contract, so that a resume on the same number of ranks repeats them
        torch.manual_seed(seed_for(run.recipe.seed, Stream.STEP, run.progress.step, run.process.data_parallel_rank))
        loss = accumulate(run, batch, weight)
        norm = run.engine.norm() / scale.value
        if math.isfinite(norm):
            return loss, norm
        if not math.isfinite(loss) or not scale.shrink():
            scale.value = before  # the scale was not the reason
            return loss, norm
        run.engine.clear()
        run.progress.overflows += 1


def accumulate(run: Run, batch: RankBatch, weight: float) -> float:
    """Add up the gradients of (sum of losses) / weight over the micro-batches. Returns the global batch's loss on every
    rank.

    The engine averages gradients over the data-parallel ranks. Therefore each loss is multiplied by (number of these
    ranks) / weight, and by the loss scale, before its backward.
    """
    process, total, beat, step = run.process, 0.0, run.heartbeat.beat, run.progress.step + 1
    scale = process.data_parallel_size / weight * run.progress.scale.value if weight else 0.0
    for number, (micro, rows) in enumerate(zip(batch.micro_batches, batch.rows, strict=True), start=1):
        left = len(batch.micro_batches) - number
        drawing = run.randomness.drawing(rows.to(process.device))
        with drawing, run.engine.accumulating(last=left == 0) as model:
            beat(Stage.FORWARD, step, left)
            with autocast(run.recipe.train.precision, process.device):
                loss, _ = run.task.loss(model, to(micro, process.device))
            beat(Stage.BACKWARD, step, left)
            run.engine.backward(loss * scale)
        total += float(loss.detach())
    beat(Stage.REDUCING, step)
    counted = total if process.leads else 0.0
    return float(process.all_gather(np.array(counted)).sum()) / weight if weight else 0.0


def clip_factor(norm: float, largest: float | None) -> float:
    """Return the factor that reduces a gradient of this norm to at most `largest` (Pascanu et al., 2013)."""
    return 1.0 if largest is None else min(1.0, largest / (norm + 1e-6))


def skip(run: Run) -> None:
    """Discard a gradient that is not finite. Raises StaysNonFinite after `abort_after` of them in a row."""
    progress, nonfinite = run.progress, run.engine.nonfinite()
    run.engine.clear()
    ranks = run.process.all_gather(np.array(list(nonfinite.values())))
    any_rank: list[bool] = np.asarray(ranks.any(axis=0)).tolist()
    bad = [name for name, is_bad in zip(nonfinite, any_rank, strict=True) if is_bad]
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    if progress.skipped_in_a_row == 1:  # a backward runs from the last parameter to the first
        progress.culprit = f"{bad[-1]} ({len(bad)} of {len(nonfinite)} parameters)" if bad else "the norm alone"
    if progress.skipped_in_a_row >= run.recipe.train.abort_after:
        first = progress.step + 2 - progress.skipped_in_a_row
        raise StaysNonFinite(
            f"the gradient was not finite in {progress.skipped_in_a_row} steps in a row, from step {first} on, where "
            f"{progress.culprit} went first ({_advice(run.recipe)})"
        )


def _advice(recipe: Recipe) -> str:
    """Return advice about non-finite gradients: to start a new run, or to increase `train.abort_after`.

    A resume does not accept other values of keys that affect training, such as the learning rate.
    """
    other = " or train.precision=bf16" if recipe.train.precision == "fp16" else ""
    advice = f"a new run may do better: another name, with a lower optimizer.lr{other}"
    return f"{advice}; train.abort_after={10 * recipe.train.abort_after} lets this one go through more such steps"
