"""What plans ask of parallel degrees: whether the ranks fill them, and what a device then holds. Torch-free."""

from typing import TYPE_CHECKING

from launcher.strategies import MemoryShare

if TYPE_CHECKING:
    from launcher.config.recipe import Recipe
    from launcher.plan.model_spec import Architecture


def divides(tensor_parallel: int, ranks: int, replicas: int = 1) -> str | None:
    """Whether replicas x shards x tensor_parallel can be the number of ranks, told as the whole equation."""
    if ranks % (replicas * tensor_parallel) == 0:
        return None
    axes = (
        [f"{replicas} replicas"] * (replicas > 1)
        + ["shards"]
        + [f"tensor_parallel {tensor_parallel}"] * (tensor_parallel > 1)
    )
    told = "1 rank is" if ranks == 1 else f"{ranks} ranks are"
    return f"{told} not {' x '.join(axes)} (a multiple of {replicas * tensor_parallel} is)"


def whole_heads(tensor_parallel: int, count: int) -> list[tuple[str, str]]:
    """Whether the attention heads of a model can be dealt. `count`: 0 where the architecture does not tell."""
    if tensor_parallel == 1 or count == 0 or count % tensor_parallel == 0:
        return []
    possible = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
    return [("strategy.tensor_parallel", f"{tensor_parallel} does not divide the {count} heads (these do: {possible})")]


def whole(recipe: "Recipe", instead: str) -> list[tuple[str, str]]:
    """Optimisers that look at whole matrices cannot update the pieces of one: as DTensors torch's Adafactor fails, and
    Muon adds up in bf16 what the ranks hold (torch 2.13). `instead`: the strategy that can."""
    if recipe.optimizer.elementwise:
        return []
    what = (
        f"{recipe.optimizer.kind} looks at whole matrices, of which a rank has a piece here (take {instead}, or adamw)"
    )
    return [("optimizer.kind", what)]


def compiled(tensor_parallel: int, recipe: "Recipe") -> list[tuple[str, str]]:
    """torch.compile cannot trace the DTensors of tensor parallelism yet (torch 2.13)."""
    if tensor_parallel == 1 or not recipe.train.compile:
        return []
    return [("train.compile", "not together with strategy.tensor_parallel (leave one of them out)")]


def sharded(
    shape: "Architecture", shards: int, tensor: int, keep: bool = False, prefetch: int = 0, offload: bool = False
) -> MemoryShare:
    """What a device holds under `fully_shard`. `keep`: gathered layers stay until the backward is through.

    What is outside the layers is gathered all the time; at the end of the backward its gradient is there too, and a
    copy to be reduced. Of a layer there are the gathered, the travelling, the gradient and its copy.
    """
    share = (1 - shape.in_layers / shape.parameters * (1 - 1 / tensor)) / shards
    outside, layer = shape.parameters - shape.in_layers, shape.largest_layer / tensor
    during = 2 * outside + (shape.in_layers / tensor + 2 * layer if keep else layer * (4 + prefetch))
    held = 0.0 if offload else share
    return MemoryShare(held, held, held, int(max(3 * outside, during)), host=2 * (share - held), moved=share - held)
