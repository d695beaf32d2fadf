"""What plans ask of parallel degrees: whether the ranks fill them. Torch-free."""

from typing import Any


def divides(tensor_parallel: int, ranks: int, replicas: int = 1) -> str | None:
    """Whether replicas x shards x tensor_parallel can be the number of ranks, told as the whole equation."""
    if ranks % (replicas * tensor_parallel) == 0:
        return None
    axes = (
        [f"{replicas} replicas"] * (replicas > 1)
        + ["shards"]
        + [f"tensor_parallel {tensor_parallel}"] * (tensor_parallel > 1)
    )
    return f"{ranks} ranks are not {' x '.join(axes)} (a multiple of {replicas * tensor_parallel} is)"


def heads(tensor_parallel: int, count: int) -> list[tuple[str, str]]:
    """Whether the attention heads of a model can be dealt. `count`: 0 where the architecture does not tell."""
    if tensor_parallel == 1 or count == 0 or count % tensor_parallel == 0:
        return []
    possible = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
    return [("strategy.tensor_parallel", f"{tensor_parallel} does not divide the {count} heads (these do: {possible})")]


def compiled(tensor_parallel: int, recipe: Any) -> list[tuple[str, str]]:
    """torch.compile cannot trace the DTensors of tensor parallelism yet (torch 2.13)."""
    if tensor_parallel == 1 or not recipe.train.compile:
        return []
    return [("train.compile", "not together with strategy.tensor_parallel (leave one of them out)")]
