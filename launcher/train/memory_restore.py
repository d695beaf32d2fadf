"""The newest copy of a run's state in the memory of its nodes, found at a start and read like a checkpoint."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open

from launcher.config.recipe import Recipe, trajectory
from launcher.config.types import JsonObject
from launcher.distributed.process_group import ProcessGroup
from launcher.prepare.run_setup import PreparedRun
from launcher.sinks import warn
from launcher.storage import memory_folder, roll_backs
from launcher.storage.checkpoint_format import SavedCheckpoint, TensorEntry
from launcher.storage.memory_copy_format import Mark, Slot
from launcher.storage.memory_folder import MemoryFolder, UnusableFolder
from launcher.train import memory_pieces, memory_transfer
from launcher.train.memory_copy import MemoryCopies

_FORMAT = 1
"""Version of the copies. Copies of another version are ignored."""


@dataclass(frozen=True)
class MemoryCopy(SavedCheckpoint):
    """A whole copy of a run's state. `mark`: of one of its files; `files`: the complete files on this node."""

    on_disk = False
    mark: Mark = field(kw_only=True)
    files: Sequence[Path] = field(kw_only=True)
    process: ProcessGroup = field(kw_only=True)

    @cached_property
    def step(self) -> int:
        return self.mark.step

    @property
    def advice(self) -> str:
        return f"remove {self.path} to go on from the newest checkpoint"

    @cached_property
    def state(self) -> JsonObject:
        return self.mark.state

    def tensors(self) -> dict[str, TensorEntry]:
        """Return the shapes of the tensors by name; types are those of the run."""
        return {name: TensorEntry(tuple(shape), torch.float32) for name, shape in self.mark.shapes.items()}

    def read_into(self, tensors: dict[str, torch.Tensor], all_ranks: bool) -> None:
        """Read these tensors in place, each rank its pieces, from the files of this node. Pieces that the node does not
        have come from another node. All ranks call it. Raises RuntimeError if a piece is nowhere."""
        wanted = {memory_pieces.key(name, tensor): memory_pieces.local(tensor) for name, tensor in tensors.items()}
        wanted = {name: part for name, part in wanted.items() if part.nbytes}
        here = _places(self.files)
        missing = self.process.all_gather_objects([name for name in wanted if name not in here])
        senders = self._senders(missing, here)
        with torch.no_grad():
            for file in self.files:
                with safe_open(file, "pt") as content:
                    for name in [name for name in wanted if here.get(name) == file]:
                        wanted[name].copy_(content.get_tensor(name))
            for rank, names in enumerate(missing):
                for name in names:
                    self._pass(name, senders[name], rank, wanted, here)

    def _senders(self, missing: Sequence[Sequence[str]], here: Mapping[str, Path]) -> dict[str, int]:
        """Return the rank that sends each missing piece: the first one whose node has it."""
        lost = sorted({name for names in missing for name in names})
        if not lost:
            return {}
        held = self.process.all_gather_objects([name for name in lost if name in here])
        senders = {name: rank for rank, names in reversed(list(enumerate(held))) for name in names}
        if nowhere := [name for name in lost if name not in senders]:
            what = f"{self.path}: the copy in memory lacks {nowhere[0]} and {len(nowhere) - 1} other tensors"
            raise RuntimeError(f"{what} ({self.advice})")
        return senders

    def _pass(
        self, name: str, source: int, to: int, wanted: Mapping[str, torch.Tensor], here: Mapping[str, Path]
    ) -> None:
        """Send a piece from one rank to another; the other ranks do nothing."""
        if self.process.rank == source:
            with safe_open(here[name], "pt") as content:
                memory_transfer.send(content.get_tensor(name), to)
        elif self.process.rank == to:
            received = torch.empty(wanted[name].shape, dtype=wanted[name].dtype)
            memory_transfer.receive(received, source)
            wanted[name].copy_(received)


def begin(run: PreparedRun, process: ProcessGroup, disk: int) -> tuple[MemoryCopies | None, MemoryCopy | None]:
    """Return the copies that this start makes (None: it makes none), and the newest whole copy in memory if it is newer
    than the checkpoints on disk. All ranks call it; rank 0 has the right to write into the run folder.

    `disk`: step of the newest checkpoint on disk; 0: there is none.
    """
    every = run.recipe.checkpoint.memory
    id = process.broadcast(_id(run, create=every is not None) if process.rank == 0 else None)
    if id is None:
        return None, None
    folder = MemoryFolder(run.folder.path, id)
    if every is None:
        folder.remove()  # of an earlier start, which made copies
        return None, None
    if not _open(folder, process):
        return None, None
    layout = _layout(run, process.world)
    left_out = process.broadcast(roll_backs.left_out(run.folder) if process.rank == 0 else None)
    marks = [
        (slot, mark)
        for slot, mark in folder.marks(layout)
        if mark.step > disk
        and not roll_backs.is_abandoned(mark.state, left_out)
        and not _skips_kept(mark.state, run.recipe, disk)
    ]
    found = _newest(folder, marks, process)
    process.barrier()  # all ranks have read the marks
    folder.keep_only(found.step if found else None)
    process.barrier()  # no rank removes what another one writes from here on
    if found is not None and process.rank == 0:
        newest = f"disk: {disk}" if disk else "on disk there is no checkpoint"
        warn(f"resuming from step {found.step}, from the copy in memory ({newest})")
    copies = MemoryCopies(every, folder, layout, process, found.step if found else None)
    return copies, found


def _id(run: PreparedRun, create: bool) -> str | None:
    """Return the id of the run, as rank 0. None: no copies are made, or the run folder cannot be written to."""
    try:
        return memory_folder.run_id(run.folder, create)
    except OSError as error:
        warn(f"no copies in memory: {run.folder.path} cannot be written to: {error.strerror}")
        return None


def _open(folder: MemoryFolder, process: ProcessGroup) -> bool:
    """Create the folder on every node, and lock this rank's files. Returns False, and warns, if the folder cannot be
    used on every node."""
    why = ""
    try:
        folder.create()
        folder.lock(process.rank)  # its handle stays open until this process ends
        memory_folder.sweep()
    except (UnusableFolder, OSError) as error:
        why = str(error)
    found = next(filter(None, process.all_gather_objects(why)), "")
    if found and process.rank == 0:
        warn(f"no copies in memory: {found}")
    return not found


def _layout(run: PreparedRun, world: int) -> str:
    """Return the digest of what has to be equal between a copy and the start that reads it."""
    same = [_FORMAT, torch.__version__, world, run.recipe.strategy.model_dump(mode="json"), run.facts.digest]
    text = json.dumps([*same, trajectory(run.recipe)], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _skips_kept(state: JsonObject, recipe: Recipe, disk: int) -> bool:
    """Return whether a resume from a copy would go past a checkpoint that the run keeps: the best one, or one of a step
    that `keep_every` keeps, which was being written when the copy was made and is not on disk. `state`: of the copy;
    `disk`: step of the newest checkpoint."""
    saving, every = state.get("saving", 0), recipe.checkpoint.keep_every
    if saving <= disk:
        return False
    best = min(state["history"], key=lambda entry: (entry[1], entry[0]), default=(0, 0.0))[0]
    return (recipe.evaluate.save_best and saving == best) or (every is not None and saving % every == 0)


def _newest(folder: MemoryFolder, marks: Sequence[tuple[Slot, Mark]], process: ProcessGroup) -> MemoryCopy | None:
    """Return the newest whole copy among complete slots of this node; None: there is none. All ranks call it."""
    nodes = process.all_gather_objects(folder.node())
    ranks = [rank for rank, node in enumerate(nodes) if node == nodes[process.rank]]
    leads = process.rank == ranks[0]
    every = process.all_gather_objects([mark.reduced() for _, mark in marks] if leads else [])
    steps = {mark.step for node in every for mark in node}
    for step in sorted(steps, reverse=True):
        if not _is_whole(mark for node in every for mark in node if mark.step == step):
            continue
        own = [(slot, mark) for slot, mark in marks if mark.step == step]
        share = own[ranks.index(process.rank) :: len(ranks)]  # the ranks of a node verify its files together
        good = [(slot.file, mark.reduced()) for slot, mark in share if slot.whole(mark)]
        verified = process.all_gather_objects(good)
        if _is_whole(mark for files in verified for _, mark in files):
            mark = next(filter(None, process.all_gather_objects(own[0][1] if own and leads else None)))
            files = [file for rank in ranks for file, _ in verified[rank]]
            return MemoryCopy(folder.path, mark=mark, files=files, process=process)
    return None


def _is_whole(marks: Iterable[Mark]) -> bool:
    """Return whether the files of these marks have all pieces of a state."""
    pieces, totals = set[int](), set[int]()
    for mark in marks:
        pieces.update(mark.pieces)
        totals.add(mark.total)
    return len(totals) == 1 and len(pieces) == totals.pop()


def _places(files: Sequence[Path]) -> dict[str, Path]:
    """Return the file of each piece on this node."""
    places = dict[str, Path]()
    for file in files:
        with safe_open(file, "pt") as content:
            places.update(dict.fromkeys(content.keys(), file))
    return places
