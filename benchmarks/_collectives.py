"""Counts of the collective operations that this rank calls."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_OPERATIONS = {
    "c10d.allreduce_": "all-reduce", "_c10d_functional.all_reduce": "all-reduce",
    "c10d.allgather_": "all-gather", "c10d._allgather_base_": "all-gather",
    "_c10d_functional.all_gather_into_tensor": "all-gather",
    "c10d._reduce_scatter_base_": "reduce-scatter", "_c10d_functional.reduce_scatter_tensor": "reduce-scatter",
}  # fmt: skip
"""Operations of torch.distributed by name, as the dispatcher calls them."""
SCALARS = 1024
"""Bytes up to which an operation exchanges scalars, which are not counted."""


@dataclass(frozen=True)
class Count:
    """Calls of an operation, and the bytes of their whole tensors."""

    calls: int = 0
    size: int = 0


class CollectiveCounter(TorchDispatchMode):
    """Context in which collective operations are counted, those of the backward included: on a CPU it runs in the same
    thread. Groups of one rank and exchanges of scalars do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = dict[str, Count]()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(one, torch.distributed.tensor.DTensor) for one in types):
            return NotImplemented  # it calls again with the tensors of this rank
        name = _OPERATIONS.get(str(operation).removesuffix(".default"))
        if name is not None:
            self._count(name, args)
        return operation(*args, **(kwargs or {}))

    def _count(self, name: str, args: Any) -> None:
        sizes = [_bytes(one) for one in args]
        if max(sizes) > SCALARS and _ranks(args) > 1:
            before = self.counts.get(name, Count())
            self.counts[name] = Count(before.calls + 1, before.size + max(sizes))


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    return sum(_bytes(one) for one in value) if isinstance(value, list | tuple) else 0


def _ranks(args: Any) -> int:
    """Return the number of ranks of an operation's group: an argument is the group, or its name."""
    for one in args:
        if isinstance(one, torch.ScriptObject):
            return int(torch.distributed.ProcessGroup.unbox(one).size())
        if isinstance(one, str) and one not in ("sum", "avg", "max", "min"):
            return int(torch.distributed.distributed_c10d._resolve_process_group(one).size())
    return 0
