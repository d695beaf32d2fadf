"""Copies of the state of a run in the memory of its nodes, every some steps.

A copy takes a `memcpy` of what this rank stores (see launcher.train.memory_pieces). Files that a neighbour node stores
too are sent in the background, over a group of their own. There are two slots for each file: the previous copy is
overwritten only after all ranks have agreed that the newer one is whole.
"""

import mmap
import threading
from collections.abc import Mapping

import numpy as np
import psutil
import torch
import torch.distributed as dist
import xxhash

from launcher.config.atomic_files import allocated_bytes, free_bytes
from launcher.config.errors import first_line
from launcher.config.strict_json import Wrong
from launcher.config.types import JsonObject
from launcher.distributed.process_group import ProcessGroup
from launcher.sinks import warn
from launcher.storage import memory_copy_format, memory_folder
from launcher.storage.memory_copy_format import Mark, Slot
from launcher.storage.memory_folder import MemoryFolder
from launcher.train import memory_pieces, memory_transfer
from launcher.train.memory_pieces import Assignment

StateDict = Mapping[str, torch.Tensor]


class MemoryCopies:
    """The copies of a run that this rank takes part in.

    `every`: steps between copies. `layout`: digest of what a start that reads a copy needs to have in common with this
    one. `kept`: the step of a whole copy that must not be overwritten; None: there is none.
    """

    def __init__(self, every: int, folder: MemoryFolder, layout: str, process: ProcessGroup, kept: int | None = None):
        self._every, self.folder, self._layout, self._process = every, folder, layout, process
        self._kept = self._newest = kept
        self._assignment: Assignment | None = None
        self._header = b""
        self._maps = dict[Slot, mmap.mmap]()
        self._group: dist.ProcessGroup | None = None
        self._transfer: threading.Thread | None = None
        self._error, self._off = "", False

    def due(self, step: int) -> bool:
        """Return whether the state of this step is to be copied. The same on all ranks."""
        return not self._off and step % self._every == 0

    def copy(self, tensors: StateDict, state: JsonObject) -> None:
        """Copy the state of `state["step"]`. All ranks call it. If the copy fails on one of them, rank 0 warns, and
        nothing is copied any more; the training goes on."""
        if not self._agreed():
            return
        self._kept = self._newest
        if self._assignment is None and not self._prepare(tensors):
            return
        slot = self.folder.slot_but(self._process.rank, self._kept)
        try:
            mark = self._write(slot, tensors, state)
        except OSError as error:
            self._error, mark = f"{slot.file}: {error.strerror or error}", None
        self._newest = state["step"]
        if self._group is not None:
            self._transfer = threading.Thread(target=self._send, args=(slot, mark), name="memory-copy", daemon=True)
            self._transfer.start()

    def wait(self) -> None:
        """Wait until the neighbour node has the newest copy."""
        if self._transfer is not None:
            self._transfer.join()
            self._transfer = None

    def begin(self, step: int) -> None:
        """Begin to train from a step on, perhaps with other tensors than before. A copy of a later step is removed, as
        one of another history. All ranks call it."""
        self.wait()
        self._assignment = None
        self._maps.clear()
        if self._newest is not None and self._newest > step:
            self._kept = self._newest = None
            self.folder.keep_only(None)

    def remove(self) -> None:
        """Remove the copies of this node, after a checkpoint of the same state. All ranks call it."""
        self.wait()
        self._maps.clear()
        self._process.barrier()  # no other rank still sends or receives
        self.folder.remove()
        self._off = True

    def _agreed(self) -> bool:
        """Return whether the previous copy is whole on all ranks, also on the neighbour nodes."""
        self.wait()
        good = self._process.all_gather(np.array([not self._error]))
        if not good.all():
            self._turn_off(next(filter(None, self._process.all_gather_objects(self._error))))
        return not self._off

    def _turn_off(self, why: str) -> None:
        self._off = True
        self._maps.clear()
        self.folder.keep_only(self._kept)  # the last whole copy is still right
        if self._process.rank == 0:
            warn(f"no more copies in memory: {why}")

    def _prepare(self, tensors: StateDict) -> bool:
        """Decide which rank stores what, and whether it fits. Returns whether copies are made."""
        process = self._process
        try:
            pieces, why = memory_pieces.described(tensors), ""
        except KeyError as error:
            pieces, why = {}, f"safetensors has no tensors of {error.args[0]}"
        every = process.all_gather_objects((pieces, self.folder.node(), why))
        made = Assignment.of([held for held, _, _ in every], [node for _, node, _ in every])
        problems = [why for _, _, why in every] + process.all_gather_objects(self._misfit(made))
        if found := next(filter(None, problems), ""):
            self._turn_off(found)
            return False
        if made.receivers and self._group is None:
            self._group = dist.new_group(backend="gloo", timeout=process.timeout)
        self._assignment, self._header = made, memory_copy_format.header(made.stored[process.rank])
        return True

    def _misfit(self, made: Assignment) -> str:
        """Return why the copies of this node do not fit into its memory; empty: they fit."""
        needed = len(memory_folder.SLOTS) * made.bytes_of_node(self._process.rank)
        own = allocated_bytes(self.folder.path)
        return memory_folder.misfit(needed, free_bytes(self.folder.path) + own, psutil.virtual_memory().total)

    def _write(self, slot: Slot, tensors: StateDict, state: JsonObject) -> Mark:
        """Copy this rank's pieces into a slot. Raises OSError."""
        made, rank = self._assignment, self._process.rank
        assert made is not None
        pieces = made.stored[rank]
        slot.invalidate()
        begin = len(self._header)
        mapped = self._mapped(slot, begin + sum(piece.size for piece in pieces.values()))
        mapped[:begin] = self._header
        to, checksum = torch.frombuffer(mapped, dtype=torch.uint8), xxhash.xxh3_128(self._header)
        held = {memory_pieces.key(name, tensor): tensor for name, tensor in tensors.items()}
        for name, piece in pieces.items():
            part = to[begin : begin + piece.size]
            part.copy_(memory_pieces.local(held[name]).detach().contiguous().reshape(-1).view(torch.uint8))
            checksum.update(part.numpy())  # while it is still in the cache of the processor
            begin += piece.size
        mark = Mark(
            step=state["step"], rank=rank, layout=self._layout, pieces=made.numbers(rank), total=len(made.names),
            shapes={name: list(tensor.shape) for name, tensor in tensors.items()}, size=begin,
            checksum=checksum.hexdigest(), state=state,
        )  # fmt: skip
        slot.complete(mark)
        return mark

    def _mapped(self, slot: Slot, size: int) -> mmap.mmap:
        """Return a file mapped for writing. It stays mapped, so that the next copy allocates nothing."""
        mapped = self._maps.get(slot)
        if mapped is None or len(mapped) != size:
            mapped = self._maps[slot] = slot.map(size)
        return mapped

    def _send(self, slot: Slot, mark: Mark | None) -> None:
        """Send this rank's file to the neighbour node, and receive files from the node before it."""
        made, process = self._assignment, self._process
        assert made is not None and self._group is not None
        to = made.receivers.get(process.rank)
        senders = made.files_of(process.rank)[1:]
        slots = {rank: self.folder.slot_but(rank, self._kept) for rank in senders}
        try:
            own = None if mark is None or to is None else memory_transfer.Outgoing(mark, self._maps[slot])
            memory_transfer.exchange(self._group, to, own, slots, self._mapped)
        except (RuntimeError, OSError, Wrong) as error:
            what = f"rank {process.rank} could not exchange copies with the neighbour node: {first_line(error)}"
            self._error = self._error or what
