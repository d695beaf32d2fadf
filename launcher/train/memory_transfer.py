"""Transfer of copies in memory between nodes, over gloo, in bounded chunks."""

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from launcher.storage.memory_copy_format import Mark, Slot

CHUNK = 1 << 26
"""Bytes of a message."""


@dataclass(frozen=True)
class Outgoing:
    """A complete file to send. `content`: the mapped file."""

    mark: Mark
    content: mmap.mmap


def exchange(
    group: dist.ProcessGroup,
    to: int | None,
    own: Outgoing | None,
    slots: Mapping[int, Slot],
    mapped: Callable[[Slot, int], mmap.mmap],
) -> None:
    """Send this rank's file to a rank, and receive the files of others at the same time.

    `to`: rank that receives; None: nobody does. `own`: None: this rank has no complete file, which the receiver is
    informed of. `slots`: where the file of each sender goes. `mapped`: returns a slot's file mapped for writing. Raises
    RuntimeError if another rank is lost, OSError without memory.
    """
    text = own.mark.text().encode() if own is not None else b""
    sizes = torch.tensor([len(text), own.mark.size if own is not None else 0])
    theirs = {rank: torch.zeros(2, dtype=torch.long) for rank in slots}
    _pass(group, {} if to is None else {to: sizes}, theirs)
    texts = {rank: torch.zeros(int(size[0]), dtype=torch.uint8) for rank, size in theirs.items()}
    _pass(group, {} if to is None else {to: _bytes(bytearray(text))}, texts)
    for slot in slots.values():
        slot.invalidate()
    arrived, failed = _allocated(
        {rank: (slots[rank], int(size[1])) for rank, size in theirs.items() if size[1]}, mapped
    )
    accepted = torch.ones(1, dtype=torch.uint8)  # otherwise the sender would wait for a receiver without memory
    answers = {rank: torch.tensor([rank in arrived], dtype=torch.uint8) for rank in slots}
    _pass(group, answers, {} if to is None else {to: accepted})
    content = {} if to is None or own is None or not accepted else {to: _bytes(own.content)}
    _pass(group, content, {rank: _bytes(file) for rank, file in arrived.items()})
    for rank in arrived:
        slots[rank].complete(Mark.of(bytes(texts[rank].numpy())))
    if failed is not None:
        raise failed


def _allocated(
    files: Mapping[int, tuple[Slot, int]], mapped: Callable[[Slot, int], mmap.mmap]
) -> tuple[dict[int, mmap.mmap], OSError | None]:
    """Return the files to receive into, by sender, and the error of those for which there is no memory."""
    found, failed = dict[int, mmap.mmap](), None
    for rank, (slot, size) in files.items():
        try:
            found[rank] = mapped(slot, size)
        except OSError as error:
            failed = error
    return found, failed


def send(tensor: torch.Tensor, to: int) -> None:
    """Send a tensor on the CPU in chunks, over the default group. The receiver calls `receive`."""
    for chunk in _chunks(_flat(tensor)):
        dist.send(chunk, to)


def receive(tensor: torch.Tensor, source: int) -> None:
    """Receive into a contiguous tensor on the CPU what `send` sends."""
    for chunk in _chunks(_flat(tensor)):
        dist.recv(chunk, source)


def _pass(group: dist.ProcessGroup, outgoing: Mapping[int, torch.Tensor], incoming: Mapping[int, torch.Tensor]) -> None:
    """Send and receive bytes at the same time, one chunk of each in flight."""
    rounds = [
        *([("send", rank, chunk) for chunk in _chunks(tensor)] for rank, tensor in outgoing.items()),
        *([("receive", rank, chunk) for chunk in _chunks(tensor)] for rank, tensor in incoming.items()),
    ]
    for at in range(max(map(len, rounds), default=0)):
        begun = [
            dist.isend(chunk, rank, group=group) if way == "send" else dist.irecv(chunk, rank, group=group)
            for way, rank, chunk in (messages[at] for messages in rounds if at < len(messages))
        ]
        for work in begun:
            work.wait()


def _bytes(content: bytearray | mmap.mmap) -> torch.Tensor:
    return torch.frombuffer(content, dtype=torch.uint8) if len(content) else torch.empty(0, dtype=torch.uint8)


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _chunks(tensor: torch.Tensor) -> list[torch.Tensor]:
    return [chunk for chunk in tensor.split(CHUNK) if chunk.numel()]
