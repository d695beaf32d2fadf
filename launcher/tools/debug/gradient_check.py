"""Examinations of gradients: parameters that get none, and a comparison with finite differences.

The comparison converts the model to float64, where a central difference of step 1e-6 is exact to about eight digits.
Dropout is counter-based, so that both losses of a difference have the same dropped units.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.tools.debug import micro_batch
from launcher.train.rank_batch import RankBatch

if TYPE_CHECKING:
    from launcher.train.training_run import Run

_WEIGHTS = 8
"""Number of weights that are examined, each of another parameter."""
_STEP = 1e-6
_TOLERANCE = 1e-4
"""Maximum relative difference between a gradient and a difference of losses."""
_NAMED = 8
"""Maximum number of parameters that are named."""


class Reached:
    """The trainable parameters of a model that have got a gradient since this object was made."""

    def __init__(self, model: torch.nn.Module):
        self.trainable = [name for name, one in model.named_parameters() if one.requires_grad]
        self._reached, self._hooks = set[str](), list[torch.utils.hooks.RemovableHandle]()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._hook(name)))

    def _hook(self, name: str) -> "object":
        return lambda _: self._reached.add(name)

    def report(self, steps: int, console: Console) -> None:
        """Name the parameters without a gradient, and stop watching."""
        for hook in self._hooks:
            hook.remove()
        missing = [name for name in self.trainable if name not in self._reached]
        if not missing:
            console.print(f"gradients: all {len(self.trainable)} trainable parameters got one", highlight=False)
            return
        console.print(
            f"[yellow]no gradient[/]: {len(missing)} of {len(self.trainable)} trainable parameters in {steps} steps: "
            "the loss does not depend on them",
            highlight=False,
        )
        for name in missing[:_NAMED]:
            console.print(f"  {escape(name)}", highlight=False)
        if len(missing) > _NAMED:
            console.print(f"  and {len(missing) - _NAMED} more", highlight=False)


class _Weight(NamedTuple):
    """A weight with its gradient from the backward, and from the difference of two losses."""

    name: str
    backward: float
    difference: float

    @property
    def error(self) -> float:
        """Return the relative difference."""
        largest = max(abs(self.backward), abs(self.difference))
        return abs(self.backward - self.difference) / largest if largest > 1e-12 else 0.0


def compare(run: "Run", batch: RankBatch, console: Console) -> int:
    """Compare gradients of the first micro-batch with finite differences, and print a table. The model is float64 from
    then on. Returns the exit code: 1 if a gradient is wrong."""
    run.engine.unwrapped.double()
    run.engine.clear()
    with micro_batch.loss(run, batch, "fp64") as loss:
        loss.backward()
    weights = [_examined(run, batch, name, parameter) for name, parameter in _chosen(run.engine.unwrapped)]
    run.engine.clear()
    table = Table("weight", "backward", "difference", "relative error", box=None, pad_edge=False)
    for one in weights:
        style = "red" if one.error > _TOLERANCE else ""
        table.add_row(escape(one.name), f"{one.backward:.6e}", f"{one.difference:.6e}", f"{one.error:.1e}", style=style)
    console.print(table)
    wrong = [one.name for one in weights if one.error > _TOLERANCE]
    if wrong:
        what = (
            f"{len(wrong)} of {len(weights)} gradients differ from the loss: a backward of its own, or a detached part"
        )
        console.print(f"[red]wrong gradient[/]: {what}?", highlight=False)
        return 1
    console.print(f"[green]right[/]: {len(weights)} gradients agree with differences of the loss", highlight=False)
    return 0


def _chosen(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Yield parameters with a gradient: some of each layer, at most _WEIGHTS, spread over the model."""
    names = list(micro_batch.layers(model))
    found = [(name, one) for name, one in model.named_parameters() if one.grad is not None and one.grad.any()]
    first = {micro_batch.layer_of(name, names): (name, one) for name, one in reversed(found)}
    others = [pair for pair in found if pair not in first.values()]
    chosen = [*reversed(first.values()), *others]
    yield from chosen if len(chosen) <= _WEIGHTS else (chosen[i * len(chosen) // _WEIGHTS] for i in range(_WEIGHTS))


def _examined(run: "Run", batch: RankBatch, name: str, parameter: torch.nn.Parameter) -> _Weight:
    """Return the weight of a parameter with the largest gradient, and its difference of losses."""
    assert parameter.grad is not None
    place = int(parameter.grad.abs().argmax())
    losses = []
    with torch.no_grad():
        flat = parameter.view(-1)
        before = float(flat[place])
        for value in (before + _STEP, before - _STEP):
            flat[place] = value
            with micro_batch.loss(run, batch, "fp64") as loss:
                losses.append(float(loss))
        flat[place] = before
    index = ", ".join(str(int(one)) for one in torch.unravel_index(torch.tensor(place), parameter.shape))
    difference = (losses[0] - losses[1]) / (2 * _STEP)
    return _Weight(f"{name}[{index}]", float(parameter.grad.view(-1)[place]), difference)
