"""torch's FSDP2 (`fully_shard`): parameters, gradients and optimiser state are sharded over the ranks, layer by layer.

`full` frees the gathered parameters of a layer after its forward and gathers them again in the backward (as ZeRO-3).
`grad_op` keeps them until the end of the backward (as ZeRO-2). `hybrid` shards within each of `replicas` groups of
ranks and averages between the groups: the mesh is replica x shard.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from launcher import strategies
from launcher.config.types import StrategyConfig
from launcher.plan.collectives import Collective, RankStep
from launcher.strategies import Engine, EngineParts, MemoryShare
from launcher.strategies._parallel_degrees import (
    check_heads,
    check_ranks,
    refuse_sharded_matrices,
    refuse_tensor_parallel,
    sharded_collectives,
    sharded_memory,
)

if TYPE_CHECKING:
    from launcher.config.recipe import Recipe
    from launcher.plan.model_spec import Architecture


_SHARDS: tuple[Literal["grad_op", "full"], ...] = ("grad_op", "full")


class Config(StrategyConfig):
    """Fully sharded data parallelism (fully_shard)."""

    kind: Literal["fsdp"] = "fsdp"
    shard: Literal["full", "grad_op", "hybrid"] = "full"
    """`full`: shard everything; `grad_op`: shard gradients and optimiser state; `hybrid`: shard everything within each
    replica."""
    replicas: int | None = Field(None, ge=1)
    """Replicas of a hybrid mesh, for `shard: hybrid` only."""
    tensor_parallel: int = Field(1, ge=1)
    """Ranks that share the weights of each layer."""
    offload: bool = False
    """Keep parameters, gradients and optimiser state in host memory."""
    prefetch: int = Field(0, ge=0)
    """Number of layers to gather ahead of the computing layer."""
    gather: Literal["fp32", "bf16"] = "fp32"
    """Number format in which parameters are gathered and used in computation; fp32: unchanged."""
    reduce: Literal["fp32", "bf16"] = "fp32"
    """Number format in which gradients are reduced; fp32: unchanged."""

    @model_validator(mode="after")
    def _replicas_of_a_hybrid(self) -> "Config":
        if (self.shard == "hybrid") != (self.replicas is not None):
            raise PydanticCustomError("replicas", "replicas belongs to shard: hybrid, which needs it (such as 2)")
        return self

    @property
    def tensor_degree(self) -> int:
        return self.tensor_parallel


class Strategy(strategies.Strategy[Config]):
    def variants(self) -> list[Config]:
        shards = [] if self.config.shard == "hybrid" else [one for one in _SHARDS if one != self.config.shard]
        ahead = [] if self.config.prefetch else [self.config.model_copy(update={"prefetch": 1})]
        return [*(self.config.model_copy(update={"shard": shard}) for shard in shards), *ahead]

    def check(self, ranks: int) -> str | None:
        return check_ranks(self.config.tensor_parallel, ranks, self.config.replicas or 1)

    def refusals(self, recipe: "Recipe", heads: int) -> list[tuple[str, str]]:
        out = check_heads(self.config.tensor_parallel, heads)
        if self.config.offload and self.config.tensor_parallel > 1:
            out.append(("strategy.offload", "not together with tensor_parallel (leave one of them out)"))
        if recipe.train.precision == "fp64" and "bf16" in (self.config.gather, self.config.reduce):
            out.append(("strategy", "gather and reduce in bf16 would round the fp64 that train.precision asks for"))
        return (
            out + refuse_sharded_matrices(recipe, "ddp") + refuse_tensor_parallel(self.config.tensor_parallel, recipe)
        )

    def axes(self, ranks: int) -> dict[str, int]:
        replicas, tensor = self.config.replicas or 1, self.config.tensor_parallel
        mesh = {"replica": replicas} if self.config.shard == "hybrid" else {}
        mesh |= {"shard": ranks // (replicas * tensor)}
        return mesh | ({"tensor": tensor} if tensor > 1 else {})

    @staticmethod
    def layouts(ranks: int) -> list[Config]:
        if ranks == 1:
            return []
        out = [Config(shard="full"), Config(shard="grad_op")]
        if ranks % 2 == 0:
            out += [Config(shard="hybrid", replicas=2)] * (ranks > 2) + [Config(tensor_parallel=2)]
        return out

    def memory_share(self, shape: "Architecture", ranks: int) -> MemoryShare:
        shards = ranks // (self.config.tensor_parallel * (self.config.replicas or 1))
        return sharded_memory(
            shape,
            shards,
            self.config.tensor_parallel,
            self.config.shard == "grad_op",
            self.config.prefetch,
            self.config.offload,
        )

    def collectives(self, shape: "Architecture", step: RankStep) -> list[Collective]:
        gathered, reduced = (2 if kind == "bf16" else step.weight for kind in (self.config.gather, self.config.reduce))
        reduced = max(reduced, 4) if self.config.reduce == "fp32" else reduced
        again = self.config.shard != "grad_op"
        return sharded_collectives(shape, step, self.axes(step.ranks), again, gathered, reduced)

    def state_share(self, ranks: int, of_node: int) -> float:
        return min(1.0, of_node * (self.config.replicas or 1) / ranks)

    def wrap(self, unwrapped: EngineParts) -> Engine:
        import torch
        from torch.distributed.fsdp import MixedPrecisionPolicy

        from launcher.strategies import _fsdp_engine

        gathered = torch.bfloat16 if self.config.gather == "bf16" else None
        reduced = torch.bfloat16 if self.config.reduce == "bf16" else torch.float32 if gathered else None
        policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=reduced)
        return _fsdp_engine.wrap(
            unwrapped,
            self.axes(unwrapped.process.world),
            reshard=self.config.shard != "grad_op",
            offload=self.config.offload,
            policy=policy,
            prefetch=self.config.prefetch,
        )
