"""torch's DistributedDataParallel: every rank holds the model, and gradients are averaged while the backward runs.

On one rank there is nothing to average, and the model runs without a wrapper. torch's DDP does not support the DTensors
of tensor parallelism. With it, `fully_shard` averages over the replicas instead, on a mesh whose shard axis has size 1.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

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


_BUCKETS = (5.0, 25.0, 100.0)
"""MiB of gradients in one reduction, to try."""


class Config(StrategyConfig):
    """Replicated data parallelism (DistributedDataParallel)."""

    kind: Literal["ddp"] = "ddp"
    bucket_mb: float = Field(25.0, gt=0)
    """MiB of gradients in one reduction."""
    bucket_view: bool = True
    """Keep gradients only in the buckets, without a second copy."""
    static_graph: bool = False
    """Assume that each step uses the same parameters."""
    compress: Literal["none", "bf16"] = "none"
    """`bf16`: reduce gradients in bf16, which rounds them."""
    tensor_parallel: int = Field(1, ge=1)
    """Ranks that share the weights of each layer."""

    @property
    def tensor_degree(self) -> int:
        return self.tensor_parallel


class Strategy(strategies.Strategy[Config]):
    def variants(self) -> list[Config]:
        if self.config.tensor_parallel > 1:
            return []  # its buckets are those of FSDP
        return [
            self.config.model_copy(update={"bucket_mb": size}) for size in _BUCKETS if size != self.config.bucket_mb
        ]

    def check(self, ranks: int) -> str | None:
        return check_ranks(self.config.tensor_parallel, ranks)

    def refusals(self, recipe: "Recipe", heads: int) -> list[tuple[str, str]]:
        out = check_heads(self.config.tensor_parallel, heads)
        if self.config.tensor_parallel > 1 and (self.config.compress != "none" or self.config.static_graph):
            out.append(("strategy", "compress and static_graph are DDP's own: without tensor_parallel"))
        if self.config.tensor_parallel > 1:
            out += refuse_sharded_matrices(recipe, "tensor_parallel: 1")
        return out + refuse_tensor_parallel(self.config.tensor_parallel, recipe)

    def axes(self, ranks: int) -> dict[str, int]:
        mesh = {"replica": ranks // self.config.tensor_parallel}
        return mesh | ({"tensor": self.config.tensor_parallel} if self.config.tensor_parallel > 1 else {})

    @staticmethod
    def layouts(ranks: int) -> list[Config]:
        tensor = [Config(tensor_parallel=2)] if ranks % 2 == 0 else []
        return [Config(), *tensor] if ranks > 1 else []

    def memory_share(self, shape: "Architecture", ranks: int) -> MemoryShare:
        if self.config.tensor_parallel > 1:
            return sharded_memory(shape, 1, self.config.tensor_parallel)
        return MemoryShare(gradients=1.0 if self.config.bucket_view or ranks == 1 else 2.0)

    def collectives(self, shape: "Architecture", step: RankStep) -> list[Collective]:
        if self.config.tensor_parallel > 1:
            axes = self.axes(step.ranks)
            return sharded_collectives(shape, step, {**axes, "shard": 1})
        size = shape.trained * (2 if self.config.compress == "bf16" else step.weight)
        buckets = max(1, round(size / (self.config.bucket_mb * 2**20)))
        return [Collective("all-reduce", size, buckets, step.ranks, "last backward")]

    def wrap(self, unwrapped: EngineParts) -> Engine:
        from torch.nn.parallel import DistributedDataParallel

        from launcher.strategies import _fsdp_engine
        from launcher.strategies._torch_engine import ReplicatedEngine, TorchEngine, in_bf16

        process = unwrapped.process
        if self.config.tensor_parallel > 1:
            mesh = self.axes(process.world)
            return _fsdp_engine.wrap(unwrapped, {"replica": mesh["replica"], "shard": 1, "tensor": mesh["tensor"]})
        optimizer = unwrapped.optimizer.for_model(unwrapped.model)
        if process.world == 1:
            return TorchEngine(unwrapped.model, unwrapped.model, optimizer)

        module = DistributedDataParallel(
            unwrapped.model,
            device_ids=None if process.device.type == "cpu" else [process.device.index],
            bucket_cap_mb=self.config.bucket_mb,
            gradient_as_bucket_view=self.config.bucket_view,
            static_graph=self.config.static_graph,
        )
        module.broadcast_buffers = False  # buffers are equal from the start, and nothing here changes them
        if self.config.compress == "bf16":
            module.register_comm_hook(None, in_bf16)
        return ReplicatedEngine(module, unwrapped.model, optimizer)
