"""The gradient of a global batch: accumulation over micro-batches, loss scale, non-finite gradients.

Loss and norm are copied to the host as soon as the device has computed them, beside what follows. `results` waits for
this copy alone: a copy begun later would also wait for the next step, whose kernels are queued by then. Only fp16 reads
the norm of each step at once, because a batch whose gradient overflows is computed again before anything else.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from launcher.config.recipe import Recipe
from launcher.contract.random import Stream, seed_for
from launcher.distributed.heartbeat import Stage
from launcher.train import out_of_memory
from launcher.train.copy_ahead import HostCopies, on_device
from launcher.train.padding_masks import padding_is_known
from launcher.train.precision import autocast, casts_kept
from launcher.train.rank_batch import RankBatch
from launcher.train.spikes import UNLIMITED, Limits
from launcher.train.training_run import Run

if TYPE_CHECKING:
    from launcher.strategies import Engine, NonfiniteGradients


class StaysNonFinite(RuntimeError):
    """The gradient was infinite or NaN in too many steps in a row."""


class Results(NamedTuple):
    """The loss of a global batch, the norm of its gradient, and whether one of them exceeds its usual range."""

    loss: float
    norm: float
    spike: bool


@dataclass(frozen=True)
class Gradient:
    """The gradient of a global batch, on the device; the engine has its values.

    `on_host`: copies of the summed losses of all ranks, fp64, shape (ranks,), and of the norm; `weight`: of the global
    batch. `norm`: fp64, a scalar, without the loss scale, which the engine's gradients contain. `spike`: a scalar:
    whether loss or norm exceeds its usual range. `nonfinite`: those of this rank.
    """

    on_host: HostCopies
    weight: float
    norm: torch.Tensor
    spike: torch.Tensor
    nonfinite: "NonfiniteGradients"

    @classmethod
    def measured(
        cls, losses: torch.Tensor, weight: float, engine: "Engine", scale: float, usual: Limits = UNLIMITED
    ) -> "Gradient":
        """Return the gradient that an engine has, and begin the copy of its results. `scale`: the loss scale. `usual`:
        the limits of loss and norm."""
        norm = engine.norm().double() / scale
        spike = usual.exceeded(losses.sum() / (weight or 1.0), norm)
        on_host = HostCopies.begin([losses, norm[None], spike.double()[None]], losses.device)
        return cls(on_host, weight, norm, spike, engine.nonfinite())

    def results(self) -> Results:
        """Return the results. The host waits until the device has computed them."""
        *losses, norm, spike = torch.cat(self.on_host.received()).tolist()
        return Results(float(np.array(losses).sum()) / self.weight if self.weight else 0.0, norm, bool(spike))


def compute(run: Run, batch: RankBatch, weight: float, usual: Limits = UNLIMITED) -> Gradient:
    """Compute the gradient of the global batch. `weight`: of the global batch. `usual`: the limits of loss and norm.

    If fp16 gradients overflow, the same batch is computed again with half the scale, so that the scale does not affect
    which batches train the model.
    """
    scale = run.progress.scale
    before = scale.value
    while True:
        # seeds draws outside the contract, so that a resume on the same number of ranks repeats them
        torch.manual_seed(seed_for(run.recipe.seed, Stream.STEP, run.progress.step, run.process.data_parallel_rank))
        losses = accumulate(run, batch, weight)
        gradient = Gradient.measured(losses, weight, run.engine, scale.value, usual)
        if before <= 1.0:
            return gradient  # there is no scale that could be the reason of an overflow
        loss, norm_of_step, _ = gradient.results()
        if math.isfinite(norm_of_step):
            return gradient
        if not math.isfinite(loss) or not scale.shrink():
            scale.value = before  # the scale was not the reason
            return gradient
        run.engine.clear()
        run.progress.overflows += 1


def accumulate(run: Run, batch: RankBatch, weight: float) -> torch.Tensor:
    """Add up the gradients of (sum of losses) / weight over the micro-batches. Returns the sums of losses of all ranks,
    on the device, fp64, shape (ranks,).

    Micro-batches that do not fit into memory are computed again in smaller ones, where this rank may do so alone.
    Raises TooLarge where it may not.
    """
    while True:
        try:
            total = _add_up(run, batch, weight)
            break
        except out_of_memory.DoesNotFit as found:
            limit = found.limit
        batch = out_of_memory.smaller(run, limit)  # not in the block above, whose error holds the activations
    run.heartbeat.beat(Stage.REDUCING, run.progress.step + 1)
    return run.process.all_gather_scalar(total if run.process.leads else torch.zeros_like(total))


def _add_up(run: Run, batch: RankBatch, weight: float) -> torch.Tensor:
    """Compute the gradients of this rank's micro-batches, and return the sum of their losses, a scalar, fp64.

    The engine averages gradients over the data-parallel ranks. Therefore each loss is multiplied by (number of these
    ranks) / weight, and by the loss scale, before its backward.
    """
    process, beat, step = run.process, run.heartbeat.beat, run.progress.step + 1
    total = torch.zeros((), dtype=torch.float64, device=process.device)
    scale = process.data_parallel_size / weight * run.progress.scale.value if weight else 0.0
    micro_batches = on_device(zip(batch.micro_batches, batch.rows, strict=True), process.device)
    precision, count = run.recipe.train.precision, len(batch.micro_batches)
    kept = casts_kept(precision if run.engine.casts_once and count > 1 else "fp32", process.device)
    with kept as backward:
        for number, (micro, rows) in enumerate(micro_batches, start=1):
            left = count - number
            watched = out_of_memory.watched(run, batch, number - 1, last=left == 0)
            with watched, run.randomness.drawing(rows), run.engine.accumulating(last=left == 0) as model:
                beat(Stage.FORWARD, step, left)
                with autocast(precision, process.device), padding_is_known(micro):
                    loss, _ = run.task.loss(model, micro)
                beat(Stage.BACKWARD, step, left)
                with backward:
                    run.engine.backward(loss * scale)
            total += loss.detach()
    return total


def factor(norm: torch.Tensor, largest: float | None, scale: float) -> torch.Tensor:
    """Return the factor of the engine's gradients: it reduces the norm to at most `largest` (Pascanu et al., 2013), and
    removes the loss scale. NaN if the norm is not finite. `norm`: a scalar, fp64; `largest`: None: do not clip."""
    clip = torch.ones_like(norm) if largest is None else (largest / (norm + 1e-6)).clamp(max=1.0)
    return torch.where(torch.isfinite(norm), clip / scale, math.nan)


def factor_of_step(gradient: Gradient, recipe: Recipe, scale: float) -> torch.Tensor:
    """Return the factor of the engine's gradients for the update of a step. NaN for a step that updates nothing: the
    norm is not finite, or the step is a spike and the recipe does not only tell. `scale`: the loss scale."""
    clipped = factor(gradient.norm, recipe.optimizer.clip, scale)
    if recipe.train.on_spike == "tell":
        return clipped
    return torch.where(gradient.spike.to(clipped.device), math.nan, clipped)


def skipped(run: Run, step: int, nonfinite: "NonfiniteGradients") -> None:
    """Count a step whose gradient was not finite. Raises StaysNonFinite after `abort_after` of them in a row. All ranks
    call it. `step`: its number, from 1."""
    progress = run.progress
    ranks = run.process.all_gather(nonfinite.flags.cpu().numpy())
    any_rank: list[bool] = np.asarray(ranks.any(axis=0)).tolist()
    bad = {name for name, is_bad in zip(nonfinite.names, any_rank, strict=True) if is_bad}
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    if progress.skipped_in_a_row == 1:  # a backward runs from the last parameter to the first
        trained = [name for name, p in run.engine.unwrapped.named_parameters() if p.requires_grad]
        last = next((name for name in reversed(trained) if name in bad), None)
        progress.culprit = f"{last} ({len(bad)} of {len(trained)} parameters)" if last else "the norm alone"
    if progress.skipped_in_a_row >= run.recipe.train.abort_after:
        first = step + 1 - progress.skipped_in_a_row
        progress.step = step - 1  # the step that failed, not those begun since
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
