"""The allocations of a program that runs on fake tensors, and its memory by purpose at the peak.

Fake tensors (FakeTensorMode) have shapes and no data. Their storages are created and freed as those of real tensors.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

_TRANSFERS = frozenset({"c10d", "_c10d_functional", "_dtensor", "fsdp"})
"""Namespaces of the operations that gather, reduce, or copy into their buffers."""
_PASSING = ("activations", "temporaries", "autocast copies")
"""Purposes of storages that nothing else is known of: created in a forward, in a backward, or by a cast of weights."""
_NONE = -1
"""Number of no storage."""
_SCALAR = torch.ops.aten._local_scalar_dense.default
_COMPARISONS = frozenset({torch.ops.aten.equal.default, torch.ops.aten.allclose.default})
_CAST = torch.ops.aten._to_copy.default
_WAIT = torch.ops._c10d_functional.wait_tensor.default


@dataclass
class _Storage:
    """A live storage. `number`: in the order of creation; `size`: in bytes, rounded as the allocator rounds it."""

    number: int
    size: int
    reference: "weakref.ref[torch.UntypedStorage]"


class Allocations(TorchDispatchMode):  # type: ignore[misc]
    """Mode that records every change of a storage's size.

    Values that the program reads from a tensor are 0.0, 1 or True, because there is no data. `quantum`: bytes to which
    the allocator rounds up. `stage`: name of the current part of the program.
    """

    def __init__(self, fake: FakeTensorMode, quantum: int = 1):
        super().__init__()
        self.stage = "start"
        self.purposes: dict[int, str] = {_NONE: "activations"}
        self.fake, self._quantum, self._count = fake, quantum, 0
        self._live: dict[int, _Storage] = {}
        self._events: list[tuple[int, int, str]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # DTensor first replaces the operation by operations on shards
        if func is _SCALAR and args[0].constant is None:
            return _value(args[0].dtype, in_step=self.stage != "start")
        if func in _COMPARISONS:
            return True
        result = args[0] if func is _WAIT else func(*args, **(kwargs or {}))
        if torch._guards.active_fake_mode() is self.fake:  # DTensor infers shapes in another mode
            self.note(result)
            if func is _CAST and self.stage != "start" and self._purpose(args[0]) in ("weights", "buffers"):
                self.name("autocast copies", [result])
            if func.namespace in _TRANSFERS:
                self.name("buffers", tree_leaves((args, kwargs, result)))
        return result

    def enter(self, stage: str) -> None:
        """Begin a part of the program. What lives then belongs to it, even if it allocates nothing."""
        self.stage = stage
        self._events.append((_NONE, 0, stage))

    def note(self, value: object) -> None:
        """Record the storages of all tensors in a value."""
        for leaf in tree_leaves(value):
            for tensor in _parts(leaf):
                self._number(tensor.untyped_storage())

    def name(self, purpose: str, tensors: Iterable[object], *, anew: bool = False) -> None:
        """Set the purpose of the storages of tensors. `anew`: replace a purpose that a storage already has."""
        for leaf in tensors:
            for tensor in _parts(leaf):
                number = self._number(tensor.untyped_storage())
                if anew or self.purposes[number] in _PASSING:
                    self.purposes[number] = purpose

    def name_kept(self, purpose: str, since: int = 0, instead_of: tuple[str, ...] = _PASSING) -> None:
        """Set the purpose of the live storages that were only passing until now. `since`: number of storages that were
        created before these."""
        for storage in self._live.values():
            if storage.number >= since and self.purposes[storage.number] in instead_of:
                self.purposes[storage.number] = purpose

    @property
    def count(self) -> int:
        """Number of storages created so far."""
        return self._count

    def peak(
        self, counted: Callable[[str], bool], excluded: frozenset[str] = frozenset()
    ) -> tuple[str, dict[str, int]]:
        """Return the stage of the highest memory, and the bytes at that moment by purpose.

        `counted`: selects the stages to search. `excluded`: purposes of storages that are not on the device.
        """
        sizes = [0 if self.purposes[number] in excluded else change for number, change, _ in self._events]
        totals = list(accumulate(sizes))
        moments = [index for index, event in enumerate(self._events) if counted(event[2])]
        highest = max(moments, key=lambda index: totals[index])
        found = dict.fromkeys(self.purposes.values(), 0)
        for (number, _, _), change in zip(self._events[: highest + 1], sizes, strict=False):
            found[self.purposes[number]] += change
        return self._events[highest][2], {purpose: size for purpose, size in found.items() if size}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record inside the context, sizes that a storage is given later included (FSDP frees so)."""
        original = torch.UntypedStorage.resize_

        def resize(storage: torch.UntypedStorage, size: int) -> object:
            result = original(storage, size)
            self._resized(storage)
            return result

        torch.UntypedStorage.resize_ = resize
        try:
            with self.fake, self:
                yield
        finally:
            torch.UntypedStorage.resize_ = original

    def _purpose(self, tensor: torch.Tensor) -> str:
        return self.purposes[self._number(tensor.untyped_storage())]

    def _number(self, storage: torch.UntypedStorage) -> int:
        key = id(storage)
        if key not in self._live:
            reference = weakref.ref(storage, partial(self._freed, key))
            self._live[key] = _Storage(self._count, self._size(storage), reference)
            self.purposes[self._count] = "temporaries" if self.stage.startswith("backward") else "activations"
            self._event(self._count, self._live[key].size)
            self._count += 1
        return self._live[key].number

    def _resized(self, storage: torch.UntypedStorage) -> None:
        number, size = self._number(storage), self._size(storage)
        live = self._live[id(storage)]
        if size != live.size:
            self._event(number, size - live.size)
            live.size = size
            if self.purposes[number] in _PASSING:
                self.purposes[number] = "buffers"

    def _freed(self, key: int, reference: object) -> None:
        storage = self._live.pop(key)
        self._event(storage.number, -storage.size)

    def _event(self, number: int, change: int) -> None:
        if change:
            self._events.append((number, change, self.stage))

    def _size(self, storage: torch.UntypedStorage) -> int:
        return -(-int(storage.nbytes()) // self._quantum) * self._quantum


def _parts(value: object) -> Iterator[torch.Tensor]:
    """Yield the plain tensors that a value consists of; none if it is not a tensor."""
    if not isinstance(value, torch.Tensor):
        return
    if is_traceable_wrapper_subclass(value):
        for name in value.__tensor_flatten__()[0]:
            yield from _parts(getattr(value, name))
    else:
        yield value


def _value(kind: torch.dtype, in_step: bool) -> float | int | bool:
    """Return a value that a program may read.

    Checks of models before the first step need a loss that is the sum of such losses: 0. In a step the value is 1,
    because DeepSpeed divides by the factor of clipping.
    """
    return True if kind == torch.bool else float(in_step) if kind.is_floating_point else 1
