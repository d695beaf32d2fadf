"""Saving and loading of checkpoints by all ranks together (for the format see launcher.storage.checkpoint_format)."""

from pathlib import Path

import torch

from launcher.config.errors import UserError
from launcher.config.training import Checkpoint
from launcher.config.types import JsonObject
from launcher.distributed.process_group import ProcessGroup
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.lease import Lease
from launcher.storage.run_dir import RunDir
from launcher.train import saved_parts
from launcher.train.checkpoint_writer import CheckpointWriter
from launcher.train.checkpoint_writer import RunReplaced as RunReplaced
from launcher.train.saved_parts import OwnParts, StateDict


def save(
    folder: RunDir, tensors: StateDict, state: JsonObject, keep: int, process: ProcessGroup, lease: Lease | None = None
) -> Path:
    """Save a checkpoint of `state["step"]` at once, and return its folder (see CheckpointWriter). All ranks call it."""
    writer = CheckpointWriter(folder, process, Checkpoint(keep=keep), lease)
    parts = saved_parts.on_host(OwnParts().of(tensors, process))
    return writer.write(parts, state, sum(tensor.nbytes for tensor in tensors.values()))


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
