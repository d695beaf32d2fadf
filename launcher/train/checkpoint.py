"""Saving and loading of checkpoints by all ranks together (for the format see launcher.storage.checkpoint_format)."""

import secrets
import shutil
from collections import ChainMap
from pathlib import Path

import torch

from launcher.config.atomic_files import free_bytes
from launcher.config.errors import UserError
from launcher.config.paths import COMPLETE
from launcher.config.types import JsonObject
from launcher.distributed.process_group import ProcessGroup
from launcher.storage import checkpoint_format, disk_full
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.lease import Lease, LeaseLost
from launcher.storage.run_dir import RunDir

StateDict = dict[str, torch.Tensor]
_BESIDE_TENSORS = 2**16
"""Approximate bytes of a checkpoint besides its tensors."""


class RunReplaced(RuntimeError):
    """A newer start of the run has taken over, or the run's folder is gone. This start must not save any more."""

    def __init__(self, folder: RunDir) -> None:
        what = "another start of this run has taken over: this one leaves, and saves nothing"
        if not folder.path.is_dir():
            what = f"{folder.path} is gone, deleted or moved away while it was trained: the run ends, and saves nothing"
        super().__init__(what)


def save(
    folder: RunDir, tensors: StateDict, state: JsonObject, keep: int, process: ProcessGroup, lease: Lease | None = None
) -> Path:
    """Save a checkpoint of `state["step"]`, and return its folder. All ranks call it.

    Afterwards, all checkpoints are removed except for the `keep` newest and the best one. `lease`: the right of rank 0
    to write. Raises DiskFull; raises RunReplaced on every rank if another start holds the lease. In both cases nothing
    half-written remains, and earlier checkpoints are unchanged.
    """
    step = state["step"]
    final = folder.checkpoints / checkpoint_format.folder_name(step)
    partial = final.with_name(process.broadcast(checkpoint_format.partial_name(step, secrets.token_hex(4))))
    _agree(folder, process, _holds(lease))
    needed = sum(tensor.nbytes for tensor in tensors.values()) + _BESIDE_TENSORS
    with disk_full.reported(folder.checkpoints, needed):
        try:
            if process.rank == 0:
                _make_room(folder, keep, needed)
                partial.mkdir(parents=True)
            process.barrier()
            checkpoint_format.write_tensors(tensors, partial)
            flushed = process.all_gather_objects(checkpoint_format.flush_own(partial, process.rank))
            ours = process.rank != 0 or checkpoint_format.publish(
                partial, final, state, folder.recipe, lambda: _holds(lease), dict(ChainMap(*flushed))
            )
        except BaseException as error:
            _remove_failed(partial, final, process, lease)
            if isinstance(error, Exception) and process.rank == 0 and not _holds(lease):
                raise RunReplaced(folder) from error  # the other start has removed the half-written folder
            raise
    _agree(folder, process, ours)
    if process.rank == 0:
        for saved in folder.superseded(keep):
            saved.remove()
    process.barrier()
    return final


def _make_room(folder: RunDir, keep: int, needed: int) -> None:
    """Remove half-written checkpoints. If `needed` bytes are still not free, also remove checkpoints that this save
    will supersede."""
    for left in folder.half_written():
        shutil.rmtree(left)
    if free_bytes(folder.checkpoints) < needed:
        for saved in folder.spare(keep):
            saved.remove()


def _remove_failed(partial: Path, final: Path, process: ProcessGroup, lease: Lease | None) -> None:
    """Remove the files of a failed save. Every rank calls it, because one may still write after another has removed
    files."""
    shutil.rmtree(partial, ignore_errors=True)
    if process.rank == 0 and not (final / COMPLETE).is_file() and _holds(lease):
        shutil.rmtree(final, ignore_errors=True)


def _holds(lease: Lease | None) -> bool:
    """Return whether this start still has the right to write, as far as this rank knows."""
    try:
        if lease is not None:
            lease.check()
    except LeaseLost:
        return False
    return True


def _agree(folder: RunDir, process: ProcessGroup, ours: bool) -> None:
    """Raise RunReplaced on every rank unless rank 0 passes True."""
    if not process.broadcast(ours):
        raise RunReplaced(folder)


def load(tensors: StateDict, saved: SavedCheckpoint, new: tuple[str, ...] = ()) -> None:
    """Read a checkpoint into these tensors, each rank its shards. All ranks call it. `new`: prefixes of names that may
    be missing from the checkpoint; such tensors keep their values. Raises UserError if names or shapes differ."""
    shapes = {name: entry.shape for name, entry in saved.tensors().items()}
    tensors = {name: t for name, t in tensors.items() if name in shapes or not name.startswith(new)}
    wrong = [
        f"{name}: {shapes.get(name, 'missing')} there, {tuple(tensor.shape)} here"
        for name, tensor in tensors.items()
        if shapes.get(name) != tuple(tensor.shape)
    ]
    if wrong:
        raise UserError(f"{saved.path}: a checkpoint of another model: {'; '.join(wrong[:5])}")
    saved.read_into(tensors, all_ranks=True)


def load_weights(model: torch.nn.Module, saved: SavedCheckpoint) -> list[str]:
    """Read all weights and buffers whose names and shapes match those of the model. Returns the names of the weights
    that were not read. If the checkpoint has fp64 tensors, the model is converted to fp64, so that nothing is
    rounded."""
    entries = saved.tensors()
    if any(entry.dtype == torch.float64 for entry in entries.values()):
        model.double()
    weights, persistent = dict(model.named_parameters()), model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in persistent}
    own = {f"model.{name}": tensor.detach() for name, tensor in (weights | buffers).items()}
    read = {name: t for name, t in own.items() if name in entries and entries[name].shape == tuple(t.shape)}
    if read:
        saved.read_into(read, all_ranks=False)
    return sorted(name for name in weights if f"model.{name}" not in read)
