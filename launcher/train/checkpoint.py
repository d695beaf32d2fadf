"""Checkpoints: safetensors written by torch.distributed.checkpoint, each rank its share; no pickle in them.

A checkpoint is written aside, flushed, renamed, and gets its COMPLETE file last, with the size and checksum of every
other file. Anything may be killed at any instant: what has no COMPLETE is never looked at.
"""

import json
import secrets
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

from launcher.config.atomic_files import flush, free_bytes
from launcher.config.errors import UserError
from launcher.distributed.process_group import ProcessGroup
from launcher.storage import disk_full
from launcher.storage.lease import Lease, LeaseLost
from launcher.storage.run_dir import COMPLETE, RunDir, SavedCheckpoint, checksum

Tensors = dict[str, torch.Tensor]
_BESIDE_TENSORS = 2**16
"""Bytes of a checkpoint beside its tensors, about."""


class RunReplaced(RuntimeError):
    """A newer start of the run has taken over, or its folder is gone: what this one would save is not wanted."""

    def __init__(self, folder: RunDir) -> None:
        what = "another start of this run has taken over: this one leaves, and saves nothing"
        if not folder.path.is_dir():
            what = f"{folder.path} is gone, deleted or moved away while it was trained: the run ends, and saves nothing"
        super().__init__(what)


def save(
    folder: RunDir,
    tensors: Tensors,
    state: dict[str, Any],
    keep: int,
    process: ProcessGroup,
    lease: Lease | None = None,
) -> Path:
    """Save a checkpoint of `state["step"]`; all ranks call it. The `keep` newest stay, and the best one. `lease`: rank
    0's right to write. Raises RunReplaced, on every rank, where another has it by now, and DiskFull; nothing
    half-written is left then, and earlier checkpoints are as they were."""
    final = folder.checkpoints / f"step-{state['step']:08d}"
    aside = final.with_name(process.broadcast(f".{final.name}.{secrets.token_hex(4)}.partial"))  # no other start's too
    _agree(folder, process, _still_ours(lease))
    needed = sum(tensor.nbytes for tensor in tensors.values()) + _BESIDE_TENSORS
    with disk_full.reported(folder.checkpoints, needed):
        try:
            if process.rank == 0:
                _make_room(folder, keep, needed)
                aside.mkdir(parents=True)
            process.barrier()
            _quietly(dcp.save, tensors, storage_writer=HuggingFaceStorageWriter(str(aside), save_distributed=True))
            process.barrier()
            ours = process.rank != 0 or _complete(folder, state, aside, final, lease)
        except BaseException:
            _clear(aside, final, process, lease)
            raise
    _agree(folder, process, ours)
    if process.rank == 0:
        _remove(folder.superseded(keep))
    process.barrier()
    return final


def _make_room(folder: RunDir, keep: int, needed: int) -> None:
    """Remove what is half-written, and where `needed` bytes do not fit, what this save would remove afterwards."""
    for left in folder.half_written():
        shutil.rmtree(left)
    if free_bytes(folder.checkpoints) < needed:
        _remove(folder.spare(keep))


def _complete(folder: RunDir, state: dict[str, Any], aside: Path, final: Path, lease: Lease | None) -> bool:
    """Add what describes the tensors, and publish. Returns False where it is not ours to do any more."""
    (aside / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    shutil.copyfile(folder.recipe, aside / "recipe.yaml")
    return _publish(aside, final, lease)


def _clear(aside: Path, final: Path, process: ProcessGroup, lease: Lease | None) -> None:
    """Leave nothing of a save that failed. Each rank does so: one may still write when another has removed its part."""
    shutil.rmtree(aside, ignore_errors=True)
    if process.rank == 0 and not (final / COMPLETE).is_file() and _still_ours(lease):
        shutil.rmtree(final, ignore_errors=True)


def _still_ours(lease: Lease | None) -> bool:
    """Whether nobody has taken over the right to write, as this rank sees it."""
    try:
        if lease is not None:
            lease.check()
    except LeaseLost:
        return False
    return True


def _agree(folder: RunDir, process: ProcessGroup, ours: bool) -> None:
    if not process.broadcast(ours):
        raise RunReplaced(folder)


def load(tensors: Tensors, saved: SavedCheckpoint, new: tuple[str, ...] = ()) -> None:
    """Read a checkpoint into these tensors, each rank what it holds. Those whose names begin with one of `new` may
    be missing from it, and stay as they are. Raises UserError where names or shapes differ."""
    there = {name: tuple(entry.size) for name, entry in _entries(saved).items()}
    tensors = {name: t for name, t in tensors.items() if name in there or not name.startswith(new)}
    wrong = [
        f"{name}: {there.get(name, 'missing')} there, {tuple(tensor.shape)} here"
        for name, tensor in tensors.items()
        if there.get(name) != tuple(tensor.shape)
    ]
    if wrong:
        raise UserError(f"{saved.path}: a checkpoint of another model: {'; '.join(wrong[:5])}")
    _quietly(dcp.load, tensors, storage_reader=HuggingFaceStorageReader(str(saved.path)))


def load_weights(model: torch.nn.Module, saved: SavedCheckpoint) -> list[str]:
    """Read those weights and buffers of a checkpoint whose names and shapes the model has. Returns the names of the
    weights it had to leave new. A model takes on the fp64 of a checkpoint, so that nothing is rounded on the way."""
    entries = _entries(saved)
    there = {name: tuple(entry.size) for name, entry in entries.items()}
    if any(entry.properties.dtype == torch.float64 for entry in entries.values()):
        model.double()
    weights, kept = dict(model.named_parameters()), model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    own = {f"model.{name}": tensor.detach() for name, tensor in (weights | buffers).items()}
    taken = {name: tensor for name, tensor in own.items() if there.get(name) == tuple(tensor.shape)}
    if taken:
        _quietly(dcp.load, taken, storage_reader=HuggingFaceStorageReader(str(saved.path)), no_dist=True)
    return sorted(name for name in weights if f"model.{name}" not in taken)


def _entries(saved: SavedCheckpoint) -> dict[str, Any]:
    """The size and the type of each tensor of a checkpoint."""
    return dict(HuggingFaceStorageReader(str(saved.path)).read_metadata().state_dict_metadata)


def _publish(aside: Path, final: Path, lease: Lease | None) -> bool:
    """Flush, rename, and say that it is whole: in this order. Returns False where it is not ours to do any more."""
    files = {}
    for file in sorted(aside.iterdir()):
        flush(file)
        files[file.name] = [file.stat().st_size, checksum(file)]
    flush(aside)
    if not _still_ours(lease):
        shutil.rmtree(aside, ignore_errors=True)
        return False
    if final.exists():  # whole, and of a start that was lost sight of and saved once more before it knew
        (final / COMPLETE).unlink(missing_ok=True)  # what is half removed counts as half written
        shutil.rmtree(final)
    aside.rename(final)
    flush(final.parent)
    mark = final / f".{COMPLETE}.partial"
    mark.write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    flush(mark)
    mark.rename(final / COMPLETE)
    flush(final)
    return True


def _remove(checkpoints: list[SavedCheckpoint]) -> None:
    """Remove whole checkpoints; first the mark, so that what is half removed counts as half written."""
    for saved in checkpoints:
        (saved.path / COMPLETE).unlink()
        shutil.rmtree(saved.path)


def _quietly(action: Any, *args: Any, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a single process has no group is no news
        try:
            action(*args, **options)
        except CheckpointException as error:  # no Exception in torch: it would pass by all who tell of failures
            first = next(iter(error.failures.values()), (error,))[0]
            raise RuntimeError(f"{type(first).__name__}: {first}") from None
