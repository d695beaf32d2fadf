"""A learning rate far from those that published runs used with a model of this width and batches of this size.

The rule holds for Adam and AdamW on transformers. A usual rate is scaled by 768 / width for other widths, as that of
hidden matrices (Yang et al., "Tensor Programs V", 2022), and by the square root of the batch for larger batches
(Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", 2022). A warning is given from ten
times that rate on, and below a hundredth of the usual rate. For example, AdamW at 1e-3, the default of torch, makes the
fine-tuning of BERT-base fail, and 5e-4 at a batch of 32 is the highest rate without a warning.
"""

from math import sqrt
from typing import NamedTuple

from launcher.config.errors import Problem
from launcher.config.recipe import Recipe
from launcher.plan.model_spec import Architecture

_TOO_HIGH, _TOO_LOW = 10.0, 100.0
"""Factors above and below the usual rate from which a rate is far from it."""
_WIDTH = 768
"""Hidden width of BERT-base."""
_LEAST_TRAINED = 0.5
"""Share of the parameters that train, below which the rates for whole models do not hold."""


class _Practice(NamedTuple):
    """Published practice. `rate`: usual learning rate at a hidden width of 768 and a global batch of `batch`."""

    what: str
    rate: float
    batch: int
    source: str


_SCRATCH = _Practice("training new weights", 1e-4, 256, "Devlin et al., 2019")
_FINE_TUNING = _Practice("training all of a pretrained model", 5e-5, 32, "Devlin et al., 2019")
_DECODER = _Practice("training all of a pretrained decoder", 3e-4, 32, "the transformers documentation of T5")
_ADAPTER = _Practice("training an adapter", 5e-4, 32, "Hu et al., 2022")


def warnings(recipe: Recipe, shape: Architecture) -> list[Problem]:
    """Return a warning if the learning rate is far from the usual one; empty: it is not, or no rule is known."""
    practice = _practice(recipe, shape)
    if practice is None:
        return []
    lr, batch = recipe.optimizer.lr, recipe.train.global_batch
    width = _WIDTH / shape.hidden
    high = practice.rate * max(1.0, width) * max(1.0, sqrt(batch / practice.batch))
    low = practice.rate * min(1.0, width) * min(1.0, sqrt(batch / practice.batch))
    where = f"{practice.what} of width {shape.hidden} with a batch of {batch}"
    if lr > _TOO_HIGH * high * (1 + 1e-9):
        what = f"{lr:g} is {lr / high:,.0f} times {high:.1g}, which is usual for {where}: the loss may not fall"
        return [Problem("optimizer.lr", f"{what} (at most {_TOO_HIGH * high:.1g}; {practice.source})")]
    if lr < low / _TOO_LOW:
        what = f"{lr:g} is {low / lr:,.0f} times below {low:.1g}, which is usual for {where}: little is learnt"
        return [Problem("optimizer.lr", f"{what} (about {low:.1g}; {practice.source})")]
    return []


def _practice(recipe: Recipe, shape: Architecture) -> _Practice | None:
    """Return the published practice for a recipe; None: none is known."""
    if not (recipe.optimizer.adam_like and shape.hidden and shape.layers and shape.parameters):
        return None
    if recipe.model.adapter is not None:
        return _ADAPTER
    if shape.trained < _LEAST_TRAINED * shape.parameters:
        return None
    if not recipe.model.pretrained:
        return _SCRATCH
    return _DECODER if recipe.inner_task.longest_target else _FINE_TUNING
