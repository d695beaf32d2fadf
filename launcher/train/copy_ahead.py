"""Copies between host and accelerator beside the computation: micro-batches ahead of it, results after it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import torch

from launcher.tasks import Batch
from launcher.train.data_loader import to
from launcher.train.sample_rows import SampleRows

MicroBatch = tuple[Batch, SampleRows]


def on_device(micro_batches: Iterable[MicroBatch], device: torch.device) -> Iterator[MicroBatch]:
    """Yield micro-batches on the device, in order.

    On an accelerator, each is copied on a stream of its own while the one before computes. The computation waits for
    the copy, the host for neither, if the memory is pinned.
    """
    if device.type == "cpu":
        yield from ((to(batch, device), rows.to(device)) for batch, rows in micro_batches)
        return
    copies, earlier = _copy_stream(device), list[_Copied]()
    for batch, rows in micro_batches:
        with copies:
            copied = to(batch, device), rows.to(device)
        earlier.append(_Copied(copied, copies.record_event()))
        if len(earlier) > 1:
            yield earlier.pop(0).received(device)
    for one in earlier:
        yield one.received(device)


@cache
def _copy_stream(device: torch.device) -> torch.Stream:
    """Return the stream of copies to a device. It is the same in every step: torch gives out 32 streams in turn, which
    collectives use too, and keeps free memory for each of them apart."""
    return torch.Stream(device)


@dataclass(frozen=True)
class HostCopies:
    """Tensors on their way to the host. `event`: the end of the copies; None: they are there."""

    tensors: list[torch.Tensor]
    event: torch.Event | None

    @classmethod
    def begin(cls, tensors: Iterable[torch.Tensor], device: torch.device) -> "HostCopies":
        """Begin to copy tensors to pinned memory of the host, on the current stream of their device."""
        copies = [tensor.detach().to("cpu", non_blocking=True) for tensor in tensors]
        return cls(copies, None if device.type == "cpu" else torch.accelerator.current_stream(device).record_event())

    def received(self) -> list[torch.Tensor]:
        """Wait for the copies, but not for what the device computes after them, and return them."""
        if self.event is not None:
            self.event.synchronize()
        return self.tensors


@dataclass(frozen=True)
class _Copied:
    """A micro-batch whose copy has been begun. `event`: the end of the copy."""

    copies: MicroBatch
    event: torch.Event

    def received(self, device: torch.device) -> MicroBatch:
        """Return the copies, for use on the current stream, which waits for them."""
        stream, (batch, rows) = torch.accelerator.current_stream(device), self.copies
        stream.wait_event(self.event)
        for tensor in (*_tensors(batch), *rows.on_device()):
            tensor.record_stream(stream)  # its memory is not reused before the computation has ended
        return self.copies


def _tensors(batch: Batch) -> Iterator[torch.Tensor]:
    for value in batch.values():
        if isinstance(value, dict):
            yield from _tensors(value)
        elif isinstance(value, torch.Tensor):
            yield value
