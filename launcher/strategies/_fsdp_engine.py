"""The engine of FSDP2 (`fully_shard` for each layer), with tensor parallelism as an optional axis of the mesh.

Gradients are reduced to shards after each micro-batch, to save memory. Only the all-reduce between replicas waits for
the last micro-batch.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from launcher.distributed.process_group import ProcessGroup
from launcher.strategies import EngineParts, Exchange, _tensor_parallel
from launcher.strategies._torch_engine import TorchEngine, local


class FsdpEngine(TorchEngine):
    """Engine of a model under `fully_shard`. `fused`: the permuted parameters of tensor parallelism by name (see
    launcher.strategies._tensor_parallel)."""

    exchanges: Exchange = "always"
    casts_once = False  # a copy would outlive the gathered parameter

    def __init__(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, fused: dict[str, _tensor_parallel.FusedRowOrder]
    ):
        super().__init__(model, model, optimizer)
        self._fused = fused
        self._copies: torch.Tensor | None = None
        self._copied = list[str]()

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[torch.nn.Module]:
        self.module.set_requires_all_reduce(last)
        yield self.module

    def norm(self) -> torch.Tensor:
        """Return the norm of the whole gradient. Each rank's sum of squares is divided by the number of ranks with the
        same part."""
        norms = self._norms_of_parts()
        total = (norms.square() / self._copies_of_parts(norms)).sum()
        dist.all_reduce(total)
        return total.sqrt()

    def _copies_of_parts(self, norms: torch.Tensor) -> torch.Tensor:
        """Return the number of ranks that hold the same part of each gradient, computed once for the same gradients."""
        if self._copies is None or self._copied != self._measured:
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            self._copied = self._measured
            self._copies = torch.tensor([_copies(one) for one in gradients], dtype=norms.dtype).to(norms.device)
        return self._copies

    def partial(self, process: ProcessGroup) -> list[str]:
        """Return the names of parameters that the tensor axis does not shard, but whose gradients differ on it.

        Each of its ranks has a part of the gradient, and nothing adds the parts up. All ranks call it.
        """
        trained = [(n, p) for n, p in self.unwrapped.named_parameters() if p.grad is not None]
        named = [(n, p) for n, p in trained if not _is_tensor_sharded(p)]
        norms = np.array([float(local(p.grad).double().norm()) for _, p in named])
        every = process.all_gather(norms).reshape(-1, process.tensor_parallel, len(named))
        apart = np.ptp(every, axis=1) > 1e-3 * every.max(axis=1) + 1e-12
        return [name for (name, _), bad in zip(named, apart.any(axis=0), strict=True) if bad]

    def state_dict(self) -> dict[str, torch.Tensor]:
        for module in self.module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # a forward without a backward, as in evaluation, may have left it gathered
        state = super().state_dict()
        for key in state:
            if fused := self._fused.get(_parameter(key)):
                state[key] = fused.canonical(state[key])
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        for key, live in super().state_dict().items():
            if fused := self._fused.get(_parameter(key)):
                fused.take(live, state[key])


def wrap(
    unwrapped: EngineParts,
    axes: dict[str, int],
    *,
    reshard: bool = True,
    offload: bool = False,
    policy: MixedPrecisionPolicy | None = None,
    prefetch: int = 0,
) -> FsdpEngine:
    """Wrap a model with `fully_shard`. The parameters of each layer are gathered as a group, and those outside of the
    layers as another group. `axes`: the sizes of the mesh axes, as returned by `Strategy.axes`. `prefetch`: number of
    layers to gather ahead."""
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")  # no output is changed in place here
    process, layers = unwrapped.process, unwrapped.probe.layers
    process.ensure_initialized()
    mesh = init_device_mesh(process.device.type, tuple(axes.values()), mesh_dim_names=tuple(axes))
    fused = _tensor_parallel.parallelise(unwrapped, mesh["tensor"]) if "tensor" in axes else {}
    options: dict[str, object] = {
        "mesh": mesh[tuple(name for name in axes if name != "tensor")],
        "reshard_after_forward": reshard,
        "mp_policy": policy or MixedPrecisionPolicy(),
        "offload_policy": CPUOffloadPolicy(pin_memory=process.device.type != "cpu") if offload else OffloadPolicy(),
    }
    for layer in layers.values():
        fully_shard(layer, **options)
    # what is outside of the layers is needed again as soon as the backward begins
    fully_shard(unwrapped.model, **{**options, "reshard_after_forward": False})
    _prefetch(list(layers.values()), prefetch)
    return FsdpEngine(unwrapped.model, unwrapped.optimizer.for_model(unwrapped.model), fused)


def _prefetch(layers: list[torch.nn.Module], ahead: int) -> None:
    """Make each layer gather the next `ahead` layers."""
    if ahead:
        for number, layer in enumerate(layers):
            layer.set_modules_to_forward_prefetch(layers[number + 1 : number + 1 + ahead])
            layer.set_modules_to_backward_prefetch(layers[max(0, number - ahead) : number][::-1])


def _is_tensor_sharded(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is sharded over the tensor axis."""
    names = tensor.device_mesh.mesh_dim_names or () if isinstance(tensor, DTensor) else ()
    return "tensor" in names


def _copies(tensor: torch.Tensor) -> int:
    """Return the number of ranks that hold the same part of a tensor."""
    if not isinstance(tensor, DTensor):
        return int(dist.get_world_size())
    mesh = tensor.device_mesh
    replicas = [mesh.size(axis) for axis, placement in enumerate(tensor.placements) if placement.is_replicate()]
    count = int(dist.get_world_size() // mesh.size())
    for size in replicas:
        count *= size
    return count


def _parameter(key: str) -> str:
    """Return the parameter name in a key of the state: `optimizer.<name>.<moment>` or `model.<name>`."""
    kind, _, name = key.partition(".")
    return name if kind == "model" else name.rpartition(".")[0]
