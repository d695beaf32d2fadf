"""Checks of parallel degrees; memory share and communication of a sharded model. Does not import torch."""

from typing import TYPE_CHECKING

from launcher.plan.collectives import Collective, RankStep
from launcher.strategies import MemoryShare

if TYPE_CHECKING:
    from launcher.config.recipe import Recipe
    from launcher.plan.model_spec import Architecture


def check_ranks(tensor_parallel: int, ranks: int, replicas: int = 1) -> str | None:
    """Return the reason why replicas x shards x tensor_parallel cannot be the number of ranks; None: it can."""
    if ranks % (replicas * tensor_parallel) == 0:
        return None
    axes = (
        [f"{replicas} replicas"] * (replicas > 1)
        + ["shards"]
        + [f"tensor_parallel {tensor_parallel}"] * (tensor_parallel > 1)
    )
    subject = "1 rank is" if ranks == 1 else f"{ranks} ranks are"
    return f"{subject} not {' x '.join(axes)} (a multiple of {replicas * tensor_parallel} is)"


def check_heads(tensor_parallel: int, count: int) -> list[tuple[str, str]]:
    """Return a refusal if the degree does not divide the attention heads, else an empty list. `count`: number of heads,
    0 if unknown."""
    if tensor_parallel == 1 or count == 0 or count % tensor_parallel == 0:
        return []
    possible = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
    return [("strategy.tensor_parallel", f"{tensor_parallel} does not divide the {count} heads (these do: {possible})")]


def refuse_sharded_matrices(recipe: "Recipe", instead: str) -> list[tuple[str, str]]:
    """Return a refusal of optimisers that need whole matrices, because a rank has only a shard; else an empty list.

    With DTensors, torch's Adafactor fails, and Muon adds up the shards in bf16 (torch 2.13). `instead`: a strategy that
    supports them.
    """
    if recipe.optimizer.elementwise:
        return []
    what = (
        f"{recipe.optimizer.kind} looks at whole matrices, of which a rank has a piece here (take {instead}, or adamw)"
    )
    return [("optimizer.kind", what)]


def refuse_tensor_parallel(tensor_parallel: int, recipe: "Recipe") -> list[tuple[str, str]]:
    """Return refusals of keys that tensor parallelism does not support.

    These are torch.compile, which cannot trace its DTensors yet (torch 2.13), and adapters, whose linear maps it does
    not shard.
    """
    out = list[tuple[str, str]]()
    if tensor_parallel > 1 and recipe.train.compile:
        out.append(("train.compile", "not together with strategy.tensor_parallel (leave one of them out)"))
    if tensor_parallel > 1 and recipe.model.adapter:
        what = "tensor parallelism does not split the linear maps of an adapter (take 1; kind: fsdp shards them)"
        out.append(("strategy.tensor_parallel", what))
    return out


def sharded_memory(
    shape: "Architecture", shards: int, tensor: int, keep: bool = False, prefetch: int = 0, offload: bool = False
) -> MemoryShare:
    """Return the memory share of a device under FSDP2. `keep`: gathered layers stay until the end of the backward.

    Parameters outside of the layers are always gathered. At the end of the backward, their gradient and a copy of it to
    reduce are there too. A layer needs its gathered parameters, those in transfer, the gradient and the copy of the
    gradient.
    """
    share = (1 - shape.in_layers / shape.parameters * (1 - 1 / tensor)) / shards
    outside, layer = shape.parameters - shape.in_layers, shape.largest_layer / tensor
    during = 2 * outside + (shape.in_layers / tensor + 2 * layer if keep else layer * (4 + prefetch))
    held = 0.0 if offload else share
    return MemoryShare(held, held, held, int(max(3 * outside, during)), host=2 * (share - held), moved=share - held)


def sharded_collectives(
    shape: "Architecture",
    step: RankStep,
    axes: dict[str, int],
    again: bool = True,
    gathered: int | None = None,
    reduced: int | None = None,
) -> list[Collective]:
    """Return what ranks exchange under FSDP2, without scalars. `axes`: sizes of the mesh axes. `again`: a layer is
    gathered again in the backward. `gathered`, `reduced`: bytes of a gathered parameter, and of a reduced gradient;
    None: those of a stored one.

    Each micro-batch gathers and reduces; only the replicas wait for the last one.
    """
    tensor, shards, replicas = (axes.get(name, 1) for name in ("tensor", "shard", "replica"))
    gathered, reduced = gathered or step.weight, reduced or step.weight
    layers, outside = _of_tensor_rank(shape, tensor), shape.parameters - shape.in_layers
    times, trained, units = step.micro_batches, shape.trained / shape.parameters, shape.layers + 1
    in_backward = layers * gathered * times if again else 0.0
    gradients = (layers + outside) * trained * reduced
    found = [
        Collective("all-gather", (layers + outside) * gathered * times, units * times, shards, "forward", tensor),
        Collective("all-gather", in_backward, shape.layers * times, shards, "backward", tensor),
        Collective("reduce-scatter", gradients * times, units * times, shards, "backward", tensor),
        Collective("all-reduce", gradients / shards, units, replicas, "last backward", tensor * shards),
        *_of_tensor_parallel(shape, step, tensor),
    ]
    return [one for one in found if one.ranks > 1 and one.size]


def _of_tensor_rank(shape: "Architecture", tensor: int) -> float:
    """Return the parameters of the layers that a rank of the tensor axis has: a share of the matrices and their
    biases, and two normalizations and the biases of the two outputs as a whole."""
    whole = 6 * shape.hidden * shape.layers
    return whole + (shape.in_layers - whole) / tensor if tensor > 1 else shape.in_layers


def _of_tensor_parallel(shape: "Architecture", step: RankStep, tensor: int) -> list[Collective]:
    """Return the all-reduces of a layer's hidden states: of two outputs in the forward, and of the gradients of four
    inputs, those of queries, keys, values and the feed-forward, in the backward."""
    size = step.positions * shape.hidden * step.activation * shape.layers * step.micro_batches
    calls = shape.layers * step.micro_batches
    again = 2 * step.recomputed
    return [
        Collective("all-reduce", 2 * size, 2 * calls, tensor, "forward", waits=True),
        Collective("all-reduce", (4 + again) * size, (4 + again) * calls, tensor, "backward", waits=True),
    ]
