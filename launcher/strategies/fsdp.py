"""torch's FSDP2 (`fully_shard`): parameters, gradients and moments are dealt over the ranks, layer by layer.

`full` frees a layer's gathered parameters after its forward and gathers them again in the backward (as ZeRO-3 does);
`grad_op` keeps them until the backward is through (ZeRO-2); `hybrid` shards inside each of `replicas` groups of ranks
and averages between the groups: the mesh is replica x shard.
"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from launcher.config.types import Plugin
from launcher.strategies import MemoryShare, UnwrappedModel
from launcher.strategies._parallel_degrees import compiled, divides, heads, sharded, whole

if TYPE_CHECKING:
    from launcher.plan.model_spec import Architecture


class Config(Plugin):
    """`offload`: parameters, gradients and moments live in host memory. `prefetch`: layers gathered ahead of the one
    that computes. `gather` and `reduce`: the type in which parameters travel and are computed with, and in which
    gradients travel; fp32 means as they are."""

    kind: Literal["fsdp"] = "fsdp"
    shard: Literal["full", "grad_op", "hybrid"] = "full"
    replicas: int | None = Field(None, ge=1)
    tensor_parallel: int = Field(1, ge=1)
    offload: bool = False
    prefetch: int = Field(0, ge=0)
    gather: Literal["fp32", "bf16"] = "fp32"
    reduce: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _replicas_of_a_hybrid(self) -> "Config":
        if (self.shard == "hybrid") != (self.replicas is not None):
            raise PydanticCustomError("replicas", "replicas belongs to shard: hybrid, which needs it (such as 2)")
        return self


def check(config: Config, ranks: int) -> str | None:
    return divides(config.tensor_parallel, ranks, config.replicas or 1)


def refuses(config: Config, recipe: Any, count: int) -> list[tuple[str, str]]:
    out = heads(config.tensor_parallel, count)
    if config.offload and config.tensor_parallel > 1:
        out.append(("strategy.offload", "not together with tensor_parallel (leave one of them out)"))
    if recipe.train.precision == "fp64" and "bf16" in (config.gather, config.reduce):
        out.append(("strategy", "gather and reduce in bf16 would round the fp64 that train.precision asks for"))
    return out + whole(recipe, "ddp") + compiled(config.tensor_parallel, recipe)


def axes(config: Config, ranks: int) -> dict[str, int]:
    replicas, tensor = config.replicas or 1, config.tensor_parallel
    mesh = {"replica": replicas} if config.shard == "hybrid" else {}
    mesh |= {"shard": ranks // (replicas * tensor)}
    return mesh | ({"tensor": tensor} if tensor > 1 else {})


def layouts(ranks: int) -> list[Config]:
    if ranks == 1:
        return []
    out = [Config(shard="full"), Config(shard="grad_op")]
    if ranks % 2 == 0:
        out += [Config(shard="hybrid", replicas=2)] * (ranks > 2) + [Config(tensor_parallel=2)]
    return out


def holding(config: Config, shape: "Architecture", ranks: int) -> MemoryShare:
    shards = ranks // (config.tensor_parallel * (config.replicas or 1))
    return sharded(shape, shards, config.tensor_parallel, config.shard == "grad_op", config.prefetch, config.offload)


def wrap(config: Config, bare: UnwrappedModel) -> Any:
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy

    from launcher.strategies import _fsdp_engine

    gathered = torch.bfloat16 if config.gather == "bf16" else None
    reduced = torch.bfloat16 if config.reduce == "bf16" else torch.float32 if gathered else None
    policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=reduced)
    return _fsdp_engine.wrap(
        bare,
        axes(config, bare.process.world),
        reshard=config.shard != "grad_op",
        offload=config.offload,
        policy=policy,
        prefetch=config.prefetch,
    )
