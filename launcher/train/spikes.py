"""Spikes: steps whose loss or gradient norm is far above its usual range, as in Chowdhery et al. (2022, PaLM).

The range at a step is computed from the steps before the last one. On an accelerator, the results of the last step are
not on the host yet when a step begins. So all devices decide alike, and the host waits for nothing: the device compares
loss and norm with limits that are known before the step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from launcher.config.recipe import Recipe
from launcher.config.training import Spike
from launcher.sinks import warn
from launcher.storage.run_files import RollBack
from launcher.train.training_run import Progress, Result, Run

_PERCENTILES = (0.05, 0.5, 0.95)
_LEAST = (0.05, 0.5)
"""Least distance of the 95th percentile from the median, relative to the median: of the loss and of the norm. A norm
may double while the learning rate warms up."""
_FEWEST = 8
"""Least number of steps from which a range is computed."""
_SHOWN = 8
"""Samples that a warning names."""


class SpikesStay(RuntimeError):
    """The loss or the gradient norm was far above its usual range in too many steps in a row."""


class RollBackNeeded(Exception):
    """A step was a spike, and training has to go on from an earlier checkpoint. `spike`: the spike, and the steps that
    are left out."""

    def __init__(self, spike: RollBack):
        super().__init__(f"step {spike.step} was a spike")
        self.spike = spike


class UsualRange(NamedTuple):
    """The usual range of a quantity: its 5th and 95th percentile, and the limit above which a value is a spike."""

    low: float
    high: float
    limit: float


class Limits(NamedTuple):
    """The usual ranges of loss and norm; infinite if too few steps are known."""

    loss: UsualRange
    norm: UsualRange

    def exceeded(self, loss: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        """Return whether finite results exceed a limit, on the device of the loss, without waiting for it. `loss`,
        `norm`: scalars."""
        norm = norm.to(loss.device)
        above = (loss > self.loss.limit) | (norm > self.norm.limit)
        return above & torch.isfinite(loss) & torch.isfinite(norm)


UNLIMITED = Limits(*[UsualRange(-np.inf, np.inf, np.inf)] * 2)


def limits(recent: Sequence[Result], step: int, config: Spike) -> Limits:
    """Return the limits of a step, numbered from 1. `recent`: results of earlier steps, in ascending order."""
    known = [(loss, norm) for number, loss, norm in recent if number <= step - 2][-config.history :]
    if len(known) < max(_FEWEST, config.history // 4):
        return UNLIMITED
    low, median, high = np.quantile(np.array(known), _PERCENTILES, axis=0)
    spread = np.maximum(high - median, np.array(_LEAST) * np.abs(median))
    limit = np.where(spread > 0, median + config.factor * spread, np.inf)
    loss, norm = (UsualRange(*numbers) for numbers in np.stack([low, high, limit], axis=1).tolist())
    return Limits(loss, norm)


def observe(progress: Progress, recipe: Recipe, result: Result, spiked: bool) -> None:
    """Count a step with a finite loss and norm. A spike does not change the usual range, unless its update was applied:
    then a new level of the loss becomes usual."""
    progress.spikes += spiked
    progress.spikes_in_a_row = progress.spikes_in_a_row + 1 if spiked else 0
    if not spiked or recipe.train.on_spike == "tell":
        progress.recent = [*progress.recent, result][-(recipe.train.spike.history + 1) :]


def kept(run: Run) -> int:
    """Return the number of newest checkpoints to keep at a save. If spikes roll back, one of them is from before the
    steps that the next spike would leave out."""
    recipe, progress = run.recipe, run.progress
    if recipe.train.on_spike != "roll_back" or run.process.rank > 0:
        return recipe.checkpoint.keep
    steps = {run.saver.step, progress.step, *(saved.step for saved in run.folder.whole())}
    before = progress.step + 1 - recipe.train.spike.leave_out
    return max(recipe.checkpoint.keep, 1 + sum(step > before for step in steps))


def act(run: Run, result: Result, usual: Limits) -> None:
    """Do what the recipe wants for a step that is a spike. All ranks call it, with the same results.

    Raises RollBackNeeded, or SpikesStay after `abort_after` skipped spikes in a row.
    """
    progress, train = run.progress, run.recipe.train
    step, loss, norm = result
    if run.process.rank == 0 and (progress.spikes_in_a_row == 1 or train.on_spike != "tell"):
        warn(_warning(run, result, usual))
    if train.on_spike == "roll_back":
        raise RollBackNeeded(
            RollBack(step=step, first=max(1, step + 1 - train.spike.leave_out), loss=loss, grad_norm=norm)
        )
    if train.on_spike == "skip" and progress.spikes_in_a_row >= train.abort_after:
        progress.step = step - 1  # the step that failed, not those begun since
        raise SpikesStay(stay_message(progress.spikes_in_a_row, step, train.abort_after))


def stay_message(count: int, step: int, abort_after: int) -> str:
    """Return the message of SpikesStay. `step`: the last of `count` spikes."""
    return (
        f"loss or gradient norm was far above its usual range {count} times in a row, the last time at step {step} (a "
        f"new run may do better: another name, with a lower optimizer.lr; train.abort_after={10 * abort_after} lets "
        "this one go through more spikes)"
    )


def _warning(run: Run, result: Result, usual: Limits) -> str:
    step, loss, norm = result
    _, ids = run.batches.dataset.order.step(step - 1, run.recipe.train.global_batch)
    some = ", ".join(map(str, ids[:_SHOWN].tolist()))
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    done = {"tell": "", "skip": "; nothing was updated", "roll_back": "; training goes back"}[run.recipe.train.on_spike]
    return (
        f"step {step} is a spike: loss {loss:.4g} (usually {usual.loss.low:.4g} to {usual.loss.high:.4g}), gradient "
        f"norm {norm:.4g} (usually {usual.norm.low:.4g} to {usual.norm.high:.4g}){done}; its samples: {some}{more}"
    )
