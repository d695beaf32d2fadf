"""The parts of a training state that this rank writes into a checkpoint, and their copy in host memory."""

from collections.abc import Collection, Mapping

import torch

from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.sharded_tensors import is_sharded
from launcher.storage.checkpoint_format import Part

StateDict = dict[str, torch.Tensor]


class OwnParts:
    """The assignment of the parts of a state to the ranks that write them: each part is written once.

    Torch's planner makes it, so that ranks with equal parts share the work. It is made at the first save, and again if
    names, shapes or types of the tensors change. These are the same on every rank, and so is that decision.
    """

    def __init__(self) -> None:
        self._described: list[tuple[object, ...]] = []
        self._offsets: dict[str, tuple[int, ...]] = {}

    def of(self, tensors: StateDict, process: ProcessGroup) -> dict[str, Part]:
        """Return this rank's parts of the state, which are views of its tensors. All ranks call it."""
        described = [_describe(name, tensor) for name, tensor in tensors.items()]
        if described != self._described:
            self._described, self._offsets = described, _assign(tensors, process)
        return {name: Part(offsets, _local(tensors[name])) for name, offsets in self._offsets.items()}


class HostCopy:
    """A copy of parts in host memory, in buffers that the next copy uses again. `device`: of the tensors; the buffers
    for those of an accelerator are pinned."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._buffers = device, dict[str, torch.Tensor]()

    def update(self, parts: Mapping[str, Part]) -> dict[str, Part]:
        """Copy the parts, and return the copy. The tensors may change afterwards."""
        pinned, copied = self._device.type != "cpu", dict[str, Part]()
        for name, (offsets, values) in parts.items():
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != values.shape or buffer.dtype != values.dtype:
                buffer = torch.empty(values.shape, dtype=values.dtype, pin_memory=pinned)
            self._buffers[name] = buffer.copy_(values, non_blocking=pinned)
            copied[name] = Part(offsets, buffer)
        if pinned:
            torch.accelerator.synchronize(self._device)
        return copied

    def keep_only(self, names: Collection[str]) -> None:
        """Free the buffers of all other parts."""
        self._buffers = {name: buffer for name, buffer in self._buffers.items() if name in names}


def on_host(parts: Mapping[str, Part]) -> dict[str, Part]:
    """Return the parts in host memory and contiguous, without a copy where they are so already."""
    return {name: Part(offsets, values.cpu().contiguous()) for name, (offsets, values) in parts.items()}


def _describe(name: str, tensor: torch.Tensor) -> tuple[object, ...]:
    placements = tensor.placements if is_sharded(tensor) else None
    return name, tensor.shape, tensor.dtype, placements


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's shard of a DTensor, or a whole tensor itself, without its gradient."""
    return tensor.detach().to_local() if is_sharded(tensor) else tensor.detach()


def _assign(tensors: StateDict, process: ProcessGroup) -> dict[str, tuple[int, ...]]:
    """Return the names of the parts that this rank writes, with their offsets. All ranks call it."""
    from torch.distributed.checkpoint import DefaultSavePlanner

    planner = DefaultSavePlanner()
    planner.set_up_planner(dict(tensors), is_coordinator=process.rank == 0)
    local = planner.create_local_plan()
    plans = process.gather_objects(local)
    planned = planner.create_global_plan(plans)[0] if plans is not None else None
    own = process.scatter_objects(planned)
    return {item.index.fqn: tuple(item.index.offset or ()) for item in own.items}
