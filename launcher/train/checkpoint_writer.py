"""Writing of a checkpoint by all ranks together: each its parts, then rank 0 publishes it.

Whatever fails on whichever rank, all ranks learn of it, remove what is half-written, and raise.
"""

import os
import secrets
import shutil
from collections import ChainMap
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from launcher.config.atomic_files import free_bytes
from launcher.config.errors import first_line
from launcher.config.paths import COMPLETE
from launcher.config.training import Checkpoint
from launcher.config.types import JsonObject
from launcher.distributed.process_group import ProcessGroup
from launcher.storage import checkpoint_format, disk_full
from launcher.storage.checkpoint_format import Part
from launcher.storage.lease import Lease, LeaseLost
from launcher.storage.run_dir import RunDir

T = TypeVar("T")
_BESIDE_TENSORS = 2**16
"""Approximate bytes of a checkpoint besides its tensors."""


class RunReplaced(RuntimeError):
    """A newer start of the run has taken over, or the run's folder is gone. This start must not save any more."""

    def __init__(self, folder: RunDir) -> None:
        what = "another start of this run has taken over: this one leaves, and saves nothing"
        if not folder.path.is_dir():
            what = f"{folder.path} is gone, deleted or moved away while it was trained: the run ends, and saves nothing"
        super().__init__(what)


@dataclass(frozen=True)
class CheckpointWriter:
    """Writes the checkpoints of a run.

    `process`: the ranks, by connections that no other thread uses meanwhile. `lease`: the right of rank 0 to write.
    """

    folder: RunDir
    process: ProcessGroup
    config: Checkpoint
    lease: Lease | None = None

    def write(
        self, parts: Mapping[str, Part], state: JsonObject, needed: int, problem: Exception | None = None
    ) -> Path:
        """Write a checkpoint of `state["step"]`, and return its folder. All ranks call it.

        `parts`: of this rank, in host memory. `needed`: bytes of all ranks. `problem`: why this rank has not got its
        parts. Afterwards, the checkpoints that are superseded are removed. Raises DiskFull, DiskFailed or RunReplaced
        on every rank. Then nothing half-written remains, and earlier checkpoints are unchanged.
        """
        needed += _BESIDE_TENSORS
        final = self.folder.checkpoints / checkpoint_format.folder_name(state["step"])
        name = self.process.broadcast(checkpoint_format.partial_name(state["step"], secrets.token_hex(4)))
        partial = final.with_name(name)
        with disk_full.failing_reported(final.parent), disk_full.reported(final.parent, needed):
            try:
                self._together(lambda: self._prepare(partial, needed, problem))
                own = self._together(lambda: checkpoint_format.write_parts(parts, partial, self.process.rank))
                self._together(lambda: self._publish(partial, final, state, dict(ChainMap(*own))))
            except BaseException:
                self._remove_failed(partial, final)
                raise
        return final

    def holds(self) -> bool:
        """Return whether this start still has the right to write, as far as this rank knows."""
        try:
            if self.lease is not None:
                self.lease.check()
        except LeaseLost:
            return False
        return True

    def _together(self, call: Callable[[], T]) -> list[T]:
        """Call on every rank, and return the results in the order of ranks. If a rank fails, all ranks raise."""
        result, error = list[T](), None
        try:
            result.append(call())
        except Exception as failure:
            error = failure
        gathered = self.process.all_gather_objects((result, _described(error)))
        failed = [(rank, each) for rank, (_, each) in enumerate(gathered) if each is not None]
        if not failed:
            return [value for each, _ in gathered for value in each]
        if not self.process.broadcast(self.holds()):
            raise RunReplaced(self.folder) from error
        if error is not None:
            raise error
        rank, (number, message) = failed[0]
        raise OSError(number, os.strerror(number)) if number else RuntimeError(f"rank {rank} cannot save: {message}")

    def _prepare(self, partial: Path, needed: int, problem: Exception | None) -> None:
        """Make room and the folder, as rank 0. Raises the problem of this rank."""
        if problem is not None:
            raise problem
        if self.process.rank == 0:
            if not self.holds():
                raise RunReplaced(self.folder)
            self._make_room(needed)
            partial.mkdir(parents=True)

    def _make_room(self, needed: int) -> None:
        """Remove half-written checkpoints. If `needed` bytes are still not free, also remove checkpoints that this save
        will supersede."""
        for left in self.folder.half_written():
            shutil.rmtree(left)
        if free_bytes(self.folder.checkpoints) < needed:
            for saved in self.folder.spare(self.config):
                saved.remove()

    def _publish(self, partial: Path, final: Path, state: JsonObject, flushed: dict[str, str]) -> None:
        """Complete and rename the folder, and remove what it supersedes, as rank 0."""
        if self.process.rank == 0:
            if not checkpoint_format.publish(partial, final, state, self.folder.recipe, self.holds, flushed):
                raise RunReplaced(self.folder)
            with suppress(OSError):  # the next save removes them
                for saved in self.folder.superseded(self.config):
                    saved.remove()

    def _remove_failed(self, partial: Path, final: Path) -> None:
        """Remove the files of a failed save. Every rank calls it, because another may be dead."""
        shutil.rmtree(partial, ignore_errors=True)
        if self.process.rank == 0 and not (final / COMPLETE).is_file() and self.holds():
            shutil.rmtree(final, ignore_errors=True)


def _described(error: Exception | None) -> tuple[int | None, str] | None:
    """Return an error for the other ranks: its number if the disk is the cause, and its type and message."""
    return None if error is None else (disk_full.cause_of(error), f"{type(error).__name__}: {first_line(error)}")
