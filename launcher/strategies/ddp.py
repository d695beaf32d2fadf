"""torch's DistributedDataParallel: every rank holds the model, gradients are averaged while the backward runs.

On one rank there is nothing to average, and the model runs as it is. With tensor parallelism, whose DTensors torch's
DDP does not know, the replicas are held together by `fully_shard` over shards of one.
"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from launcher.config.types import Plugin
from launcher.strategies import MemoryShare, UnwrappedModel
from launcher.strategies._parallel_degrees import compiled, divides, heads, sharded, whole

if TYPE_CHECKING:
    from launcher.plan.model_spec import Architecture


class Config(Plugin):
    """`bucket_mb`: MiB of gradients reduced at once. `bucket_view`: gradients live in the buckets, not beside them.
    `compress`: gradients travel in bf16, which rounds them. `static_graph`: each step uses the same parameters."""

    kind: Literal["ddp"] = "ddp"
    bucket_mb: float = Field(25.0, gt=0)
    bucket_view: bool = True
    static_graph: bool = False
    compress: Literal["none", "bf16"] = "none"
    tensor_parallel: int = Field(1, ge=1)


def check(config: Config, ranks: int) -> str | None:
    return divides(config.tensor_parallel, ranks)


def refuses(config: Config, recipe: Any, count: int) -> list[tuple[str, str]]:
    out = heads(config.tensor_parallel, count)
    if config.tensor_parallel > 1 and (config.compress != "none" or config.static_graph):
        out.append(("strategy", "compress and static_graph are DDP's own: without tensor_parallel"))
    if config.tensor_parallel > 1:
        out += whole(recipe, "tensor_parallel: 1")
    return out + compiled(config.tensor_parallel, recipe)


def axes(config: Config, ranks: int) -> dict[str, int]:
    mesh = {"replica": ranks // config.tensor_parallel}
    return mesh | ({"tensor": config.tensor_parallel} if config.tensor_parallel > 1 else {})


def layouts(ranks: int) -> list[Config]:
    tensor = [Config(tensor_parallel=2)] if ranks % 2 == 0 else []
    return [Config(), *tensor] if ranks > 1 else []


def holding(config: Config, shape: "Architecture", ranks: int) -> MemoryShare:
    if config.tensor_parallel > 1:
        return sharded(shape, 1, config.tensor_parallel)
    return MemoryShare(gradients=1.0 if config.bucket_view or ranks == 1 else 2.0)


def wrap(config: Config, bare: UnwrappedModel) -> Any:
    from torch.nn.parallel import DistributedDataParallel

    from launcher.strategies import _fsdp_engine
    from launcher.strategies._torch_engine import ReplicatedEngine, TorchEngine, in_bf16
    from launcher.train import optim

    process = bare.process
    if config.tensor_parallel > 1:
        mesh = axes(config, process.world)
        return _fsdp_engine.wrap(bare, {"replica": mesh["replica"], "shard": 1, "tensor": mesh["tensor"]})
    optimizer = optim.make(bare.optimizer, bare.model)
    if process.world == 1:
        return TorchEngine(bare.model, bare.model, optimizer)

    module = DistributedDataParallel(
        bare.model,
        device_ids=None if process.device.type == "cpu" else [process.device.index],
        bucket_cap_mb=config.bucket_mb,
        gradient_as_bucket_view=config.bucket_view,
        static_graph=config.static_graph,
    )
    module.broadcast_buffers = False  # they are equal from the start, and nothing here changes them
    if config.compress == "bf16":
        module.register_comm_hook(None, in_bf16)
    return ReplicatedEngine(module, bare.model, optimizer)
