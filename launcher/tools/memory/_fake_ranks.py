"""One rank of many without the others: torch's fake process group, and those parts of torch.distributed that read data.

A fake process group completes every collective at once. On fake tensors, which have no data, some parts of torch need
a replacement: `Module.to`, device meshes, which compute with tensors, and DistributedDataParallel, which compares
shapes between ranks and broadcasts the order of its buckets in C++.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, cast
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.nn import parallel
from torch.utils._python_dispatch import _disable_current_modes

from launcher.distributed.process_group import ProcessGroup
from launcher.strategies import _fsdp_engine, _zero_engine

T = TypeVar("T")
Record = TypeVar("Record", bound=np.generic)


class FakeGroup(ProcessGroup):
    """A process group whose other ranks have the same values as this one."""

    def all_gather(self, record: NDArray[Record]) -> NDArray[Record]:
        return np.repeat(record[None], self.world, axis=0)

    def broadcast(self, value: T | None) -> T:
        return cast(T, value)

    def all_gather_objects(self, value: T) -> list[T]:
        return [value] * self.world

    def barrier(self) -> None:
        pass


@contextmanager
def connected(ranks: int, tensor_parallel: int) -> Iterator[FakeGroup]:
    """Connect rank 0 of a fake process group, for this process."""
    import torch.distributed._tools.fake_collectives  # registers the collectives for fake tensors
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    with ExitStack() as replaced:
        for owner, name, other in _replacements():
            replaced.enter_context(mock.patch.object(owner, name, other))
        yield FakeGroup(0, ranks, torch.device("cpu"), tensor_parallel)
    dist.destroy_process_group()


def _replacements() -> Iterator[tuple[object, str, object]]:
    """Yield an object, the name of its attribute, and the replacement of the attribute."""
    yield torch.nn.Module, "_apply", _apply
    yield parallel, "DistributedDataParallel", _Replicated
    yield parallel.distributed, "_verify_param_shape_across_processes", lambda *arguments: None
    outside = [
        (_fsdp_engine, "init_device_mesh"), (_zero_engine, "init_device_mesh"), (DeviceMesh, "__init__"),
        (DeviceMesh, "__getitem__"), (DeviceMesh, "_concatenate"),
        (ShardingPropagator, "_propagate_tensor_meta_non_cached"),
    ]  # fmt: skip
    for owner, name in outside:
        if hasattr(owner, name):  # torch 2.9 has no _concatenate
            yield owner, name, _without_modes(getattr(owner, name))


def _without_modes(function: Callable[..., T]) -> Callable[..., T]:
    """Return the function, called without modes, so that its tensors have data or are not recorded."""

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> T:
        with _disable_current_modes():
            return function(*args, **kwargs)

    return call


class _Replicated(parallel.DistributedDataParallel):  # type: ignore[misc]
    """torch's DDP with its buckets, which reduces nothing and keeps the first order of buckets."""

    def __init__(self, *args: object, **kwargs: object):
        super().__init__(*args, **kwargs)
        super().register_comm_hook(None, _unreduced)
        self.reducer: object = _Reducer(self.reducer)

    def register_comm_hook(self, state: object, hook: object) -> None:
        """Do nothing: a hook of the strategy would communicate."""


class _Reducer:
    """A reducer of DDP without the second order of its buckets. `reducer`: torch's own."""

    def __init__(self, reducer: Any):
        self._reducer = reducer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reducer, name)

    def _rebuild_buckets(self) -> bool:
        return False


def _unreduced(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def _apply(module: torch.nn.Module, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.nn.Module:
    """Replace the parameters and buffers of a module, as `Module.to` does. torch would exchange the tensors, but a fake
    tensor with a weak reference cannot be exchanged."""
    converted = dict[torch.Tensor, torch.Tensor]()
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = converted.setdefault(tensor, _converted(tensor, function))
    return module


def _converted(tensor: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        other = function(tensor)
    if other is tensor or not isinstance(tensor, torch.nn.Parameter):
        return other
    return torch.nn.Parameter(other, tensor.requires_grad)
