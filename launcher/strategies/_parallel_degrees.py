"""Checks of parallel degrees, and the memory share of a sharded model. Does not import torch."""

from typing import TYPE_CHECKING

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
