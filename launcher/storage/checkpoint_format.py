"""The format of a checkpoint: a folder `step-NNNNNNNN` of safetensors files that torch.distributed.checkpoint writes, a
file for each rank, with `state.json`, `recipe.yaml` and `COMPLETE`. There is no pickle in it.

COMPLETE is written last, with the size and the checksum of every other file. A folder without it is half-written and
never read, so that a process may be killed at any time.
"""

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import xxhash

from launcher.config import strict_json
from launcher.config.atomic_files import flush, is_file, write
from launcher.config.paths import COMPLETE, RECIPE, STATE
from launcher.config.strict_json import DamagedFile, Wrong
from launcher.config.types import JsonObject
from launcher.storage.run_files import CheckpointFiles, CheckpointState

if TYPE_CHECKING:
    import torch

NAME = r"step-[0-9]+"
HALF_WRITTEN = rf"{NAME}|\.{NAME}(\.[0-9a-f]+)?\.partial"


def folder_name(step: int) -> str:
    """The name of the checkpoint of a step."""
    return f"step-{step:08d}"


def partial_name(step: int, token: str) -> str:
    """The name of a checkpoint that is being written. `token`: hexadecimal, which no other start uses."""
    return f".{folder_name(step)}.{token}.partial"


def checksum(file: Path) -> str:
    """The XXH3 128-bit hash of a file's bytes, in hexadecimal."""
    state = xxhash.xxh3_128()
    with file.open("rb") as data:
        while block := data.read(1 << 22):
            state.update(block)
    return str(state.hexdigest())


class TensorEntry(NamedTuple):
    """The shape and type of a tensor in a checkpoint."""

    shape: tuple[int, ...]
    dtype: "torch.dtype"


@dataclass(frozen=True)
class SavedCheckpoint:
    """A complete checkpoint."""

    path: Path

    @cached_property
    def step(self) -> int:
        return int(self.path.name.removeprefix("step-"))

    @property
    def advice(self) -> str:
        """How to continue without this checkpoint where it is damaged."""
        return f"move {self.path} away to go on from the checkpoint before it"

    @cached_property
    def state(self) -> JsonObject:
        """The content of state.json (see CheckpointState). Raises DamagedFile."""
        file = self.path / STATE
        value = strict_json.read_object(file, self.advice)
        try:
            strict_json.check(value, CheckpointState)
        except Wrong as error:
            raise strict_json.damage(file, error, self.advice) from None
        return value

    def verify(self) -> None:
        """Compare every file with its size and checksum in COMPLETE. Raises DamagedFile that names the first one that
        differs."""
        mark = self.path / COMPLETE
        try:
            files = strict_json.read(mark, CheckpointFiles, self.advice).files
        except DamagedFile:
            raise strict_json.damage(mark, "not what was written", self.advice) from None
        for name, (size, digest) in files.items():
            file = self.path / name
            if not is_file(file):
                raise DamagedFile(f"{file}: missing from the checkpoint ({self.advice})")
            try:
                same = file.stat().st_size == size and checksum(file) == digest
            except OSError as error:
                raise strict_json.damage(file, f"cannot be read: {error.strerror}", self.advice) from None
            if not same:
                raise strict_json.damage(file, "its content is not what was written", self.advice)

    def tensors(self) -> dict[str, TensorEntry]:
        """The tensors in it by name: `model.<name>` and `optimizer.<name>.<moment>`."""
        from torch.distributed.checkpoint import HuggingFaceStorageReader

        entries = HuggingFaceStorageReader(str(self.path)).read_metadata().state_dict_metadata
        return {name: TensorEntry(tuple(entry.size), entry.properties.dtype) for name, entry in entries.items()}

    def read_into(self, tensors: "dict[str, torch.Tensor]", all_ranks: bool) -> None:
        """Read these tensors in place, each rank its shards. `all_ranks`: every rank of the process group calls it;
        otherwise this one reads alone."""
        import torch.distributed.checkpoint as dcp

        reader = dcp.HuggingFaceStorageReader(str(self.path))
        _run(lambda: dcp.load(tensors, storage_reader=reader, no_dist=not all_ranks))

    def remove(self) -> None:
        """Remove it, COMPLETE first, so that what is left after a kill counts as half-written."""
        (self.path / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(self.path)


def write_tensors(tensors: "dict[str, torch.Tensor]", partial: Path) -> None:
    """Write the tensors into a new checkpoint's folder, each rank its shards. All ranks call it."""
    import torch.distributed.checkpoint as dcp

    writer = dcp.HuggingFaceStorageWriter(str(partial), save_distributed=True)
    _run(lambda: dcp.save(tensors, storage_writer=writer))


def publish(partial: Path, final: Path, state: JsonObject, recipe: Path, still_ours: Callable[[], bool]) -> bool:
    """Complete the folder `partial` and rename it to `final`: write the state and the recipe, flush, rename, and write
    COMPLETE, in this order. Returns False, without a checkpoint, where `still_ours` returns False before the rename."""
    (partial / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    shutil.copyfile(recipe, partial / RECIPE)
    files = {}
    for file in sorted(partial.iterdir()):
        flush(file)
        files[file.name] = [file.stat().st_size, checksum(file)]
    flush(partial)
    if not still_ours():
        shutil.rmtree(partial, ignore_errors=True)
        return False
    if final.exists():  # complete, saved by a start that had lost the lease and did not know it yet
        SavedCheckpoint(final).remove()
    partial.rename(final)
    flush(final.parent)
    write(final / COMPLETE, json.dumps({"files": files}, indent=1))
    flush(final)
    return True


def _run(action: Callable[[], None]) -> None:
    """Call torch.distributed.checkpoint. Raises RuntimeError with the first rank's failure."""
    from torch.distributed.checkpoint.api import CheckpointException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where there is no process group
        try:
            action()
        except CheckpointException as error:  # a BaseException, which no handler of failures expects
            first = next(iter(error.failures.values()), (error,))[0]
            raise RuntimeError(f"{type(first).__name__}: {first}") from None
