"""The loss of one micro-batch, as a step computes it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch

from launcher.contract.random import Stream, seed_for
from launcher.train.padding_masks import padding_is_known
from launcher.train.precision import autocast
from launcher.train.rank_batch import RankBatch

if TYPE_CHECKING:
    from launcher.train.training_run import Run


@contextmanager
def loss(run: "Run", batch: RankBatch, precision: str) -> Iterator[torch.Tensor]:
    """Compute the sum of losses of the first micro-batch. A backward belongs inside the context.

    The random draws are those of the first step, so that every call gives the same loss.
    """
    torch.manual_seed(seed_for(run.recipe.seed, Stream.STEP, 0, 0))
    micro, device = batch.micro_batches[0], run.process.device
    moved = torch.utils._pytree.tree_map_only(torch.Tensor, lambda one: _as(one, precision).to(device), micro)
    with ExitStack() as stack:
        stack.enter_context(run.randomness.drawing(batch.rows[0]))
        stack.enter_context(autocast(precision, device))
        stack.enter_context(padding_is_known(moved))
        total, _ = run.task.loss(run.engine.unwrapped, moved)
        yield total


def _as(tensor: torch.Tensor, precision: str) -> torch.Tensor:
    return tensor.double() if precision == "fp64" and tensor.is_floating_point() else tensor


def layers(module: torch.nn.Module, name: str = "") -> Iterator[str]:
    """Yield the names of a model's layers: the entries of its lists of modules, and the modules beside these lists."""
    for key, child in module.named_children():
        path = f"{name}.{key}" if name else key
        lists = any(isinstance(one, torch.nn.ModuleList) for one in child.modules())
        if isinstance(child, torch.nn.ModuleList):
            yield from (f"{path}.{number}" for number in range(len(child)))
        elif lists:
            yield from layers(child, path)
        else:
            yield path


def layer_of(parameter: str, names: list[str]) -> str:
    """Return the layer that a parameter belongs to; the first part of its name if there is none."""
    return next((name for name in names if parameter.startswith(f"{name}.")), parameter.partition(".")[0])
