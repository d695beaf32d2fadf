"""The memory of each layer: parameters, gradients, optimiser state, and what its forward keeps for the backward.

Activations are the tensors that autograd saves in the forward of one micro-batch, each storage counted once, for the
layer that saved it first. Parameters that are saved are not counted again. The numbers are those of this device: on a
GPU, other kernels save other tensors.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config.format import human
from launcher.tools.debug import micro_batch
from launcher.train.rank_batch import RankBatch

if TYPE_CHECKING:
    from launcher.train.training_run import Run

_REST = "(loss and the rest)"


def show(run: "Run", batch: RankBatch, console: Console) -> None:
    """Print a row for each layer. The optimiser must have taken a step."""
    model = run.engine.unwrapped
    names = list(micro_batch.layers(model))
    weights, gradients, optimizer = Counter[str](), Counter[str](), Counter[str]()
    for name, parameter in model.named_parameters():
        layer = micro_batch.layer_of(name, names)
        weights[layer] += parameter.nbytes
        gradients[layer] += parameter.nbytes if parameter.requires_grad else 0
    for name, value in run.engine.state_dict().items():
        if name.startswith("optimizer."):
            optimizer[micro_batch.layer_of(name.removeprefix("optimizer."), names)] += value.nbytes
    activations = _activations(run, batch, names)
    table = Table("layer", "weights", "gradients", "optimizer", "activations", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    parts = (weights, gradients, optimizer, activations)
    for layer in dict.fromkeys([*names, *weights, _REST]):
        if any(part[layer] for part in parts):
            table.add_row(escape(layer), *(human(part[layer]) for part in parts))
    table.add_row("total", *(human(part.total()) for part in parts), style="bold")
    console.print(table)
    rows = f"{next(iter(_tensors(batch))).shape[0]} rows"
    console.print(f"activations: saved for the backward of one micro-batch ({rows}) on {run.process.device}")


def _tensors(batch: RankBatch) -> Iterator[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(batch.micro_batches[0])
    yield from (leaf for leaf in leaves if isinstance(leaf, torch.Tensor))


def _activations(run: "Run", batch: RankBatch, names: list[str]) -> Counter[str]:
    """Return the bytes that the forward of each layer saves."""
    found, model = Counter[str](), run.engine.unwrapped
    seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    alive = list[torch.Tensor]()  # an address that is free again would be taken for a known storage
    with _current_layer(model, names) as stack:

        def save(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                found[stack[-1]] += storage.nbytes()
                alive.append(tensor)
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
            micro_batch.loss(run, batch, run.recipe.train.precision),
        ):
            pass
    return found


@contextmanager
def _current_layer(model: torch.nn.Module, names: list[str]) -> Iterator[list[str]]:
    """Keep the names of the layers whose forward runs, the innermost last."""
    stack, handles = [_REST], []
    for name in names:
        module = model.get_submodule(name)
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: stack.append(name)))
        handles.append(module.register_forward_hook(lambda *_: stack.pop() and None))
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()
