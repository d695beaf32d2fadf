"""Detection of a model's layers and trained parameters by one forward, instead of a table of architectures."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from launcher.plan.layer_blocks import blocks
from launcher.tasks import Batch, Task


@dataclass(frozen=True)
class ModelProbe:
    """The result of a probe.

    `layers`: the repeated blocks that ran exactly once, by name. `linears`: for each layer, the names of its linear
    modules in the order in which they ran. `unreached`: names of the parameters that do not affect the loss.
    """

    layers: dict[str, nn.Module]
    linears: dict[str, list[str]]
    unreached: list[str]


def run(model: nn.Module, task: Task, example: Batch) -> ModelProbe:
    """Run one forward without dropout, and return what it shows. The parameters that affect the loss are read from its
    graph, without a backward."""
    names = {module: name for name, module in model.named_modules()}
    candidates = blocks(model)
    order: list[nn.Module] = []
    handles = [
        module.register_forward_pre_hook(partial(_note, order))
        for module in names
        if module in candidates or isinstance(module, nn.Linear)
    ]
    training = model.training
    model.eval()
    try:
        loss, _ = task.loss(model, example)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    reached = _leaves(loss)
    layers = {names[block]: block for block in candidates if order.count(block) == 1}
    ran = [names[module] for module in dict.fromkeys(order) if isinstance(module, nn.Linear)]
    return ModelProbe(
        layers=layers,
        linears={name: [n.removeprefix(f"{name}.") for n in ran if n.startswith(f"{name}.")] for name in layers},
        unreached=[name for name, p in model.named_parameters() if p.requires_grad and p not in reached],
    )


def loss(model: nn.Module, task: Task, example: Batch) -> float:
    """Return the loss of one sample without dropout."""
    training = model.training
    model.eval()
    with torch.no_grad():
        value = float(task.loss(model, example)[0])
    model.train(training)
    return value


def _note(order: list[nn.Module], module: nn.Module, inputs: object) -> None:
    """Record a call with gradients. Calls without them are ignored, because a task may make some for predictions."""
    if torch.is_grad_enabled():
        order.append(module)


def _leaves(loss: torch.Tensor) -> set[torch.Tensor]:
    """Return the leaf tensors that a backward from this loss would reach."""
    seen, todo, found = set[object](), [loss.grad_fn], set[torch.Tensor]()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        todo += [after for after, _ in node.next_functions]
    return found
