"""The format of a checkpoint: a folder `step-NNNNNNNN` of safetensors files, without any pickle.

torch.distributed.checkpoint writes a safetensors file for each rank. The folder also has state.json, recipe.yaml and
COMPLETE. COMPLETE is written last, with the size and the checksum of every other file. A folder without it is
incomplete and never read, so that a process may be killed at any time.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import xxhash

from launcher.config import strict_json
from launcher.config.atomic_files import exists, flush, is_file, write
from launcher.config.errors import UserError, first_line
from launcher.config.paths import COMPLETE, RECIPE, STATE
from launcher.config.strict_json import DamagedFile, Wrong
from launcher.config.types import JsonObject
from launcher.storage.run_files import CheckpointFiles, CheckpointFormat, CheckpointState

if TYPE_CHECKING:
    import torch

NAME = r"step-[0-9]+"
HALF_WRITTEN = rf"{NAME}|\.{NAME}(\.[0-9a-f]+)?\.partial|\.probe-[0-9a-f]+(-renamed)?"
FORMAT = 1
"""Number of this format. COMPLETE of a later format has a higher number; without a number it is 1."""


def folder_name(step: int) -> str:
    """Return the folder name of the checkpoint of a step."""
    return f"step-{step:08d}"


def partial_name(step: int, token: str) -> str:
    """Return the folder name of a checkpoint that is being written. `token`: hexadecimal, used by no other start."""
    return f".{folder_name(step)}.{token}.partial"


def checksum(file: Path) -> str:
    """Return the XXH3 128-bit hash of a file's bytes, in hexadecimal."""
    state = xxhash.xxh3_128()
    with file.open("rb") as data:
        while block := data.read(1 << 22):
            state.update(block)
    return str(state.hexdigest())


class NewerFormat(UserError):
    """Error: a newer version of the launcher has written a checkpoint."""

    def __init__(self, checkpoint: Path, number: int) -> None:
        what = f"a newer version of the launcher wrote it, in format {number}, and this one reads up to {FORMAT}"
        super().__init__(f"{checkpoint}: {what} (install that version, or move the folder away)")


class TensorEntry(NamedTuple):
    """The shape and type of a tensor in a checkpoint."""

    shape: tuple[int, ...]
    dtype: "torch.dtype"


@dataclass(frozen=True)
class SavedCheckpoint:
    """A complete checkpoint. `on_disk`: False for a copy in memory, which is no checkpoint of its step."""

    path: Path
    on_disk: ClassVar[bool] = True

    @cached_property
    def step(self) -> int:
        return int(self.path.name.removeprefix("step-"))

    @property
    def advice(self) -> str:
        """Advice for a damaged checkpoint: how to continue without it."""
        return "a resume uses the checkpoint before it; --checkpoint STEP names another one"

    @cached_property
    def state(self) -> JsonObject:
        """The content of state.json (see CheckpointState). Raises DamagedFile."""
        return self._read_state()

    def _read_state(self) -> JsonObject:
        file = self.path / STATE
        value = strict_json.read_object(file, self.advice)
        try:
            strict_json.check(value, CheckpointState)
        except Wrong as error:
            raise strict_json.damage(file, error, self.advice) from None
        return value

    def verify(self) -> None:
        """Compare every file with its size and checksum in COMPLETE. Raises DamagedFile for the first wrong file, and
        NewerFormat."""
        self.verify_share(0, 1)

    def verify_share(self, index: int, shares: int) -> None:
        """Verify one of several shares of the files, which have about equal sizes. Raises DamagedFile and
        NewerFormat."""
        files = self._files()
        for name in _share(files, index, shares):
            size, digest = files[name]
            self._check_size(name, size)
            file = self.path / name
            try:
                same = checksum(file) == digest
            except OSError as error:
                raise strict_json.damage(file, f"cannot be read: {error.strerror}", self.advice) from None
            if not same:
                raise strict_json.damage(file, "its content is not what was written", self.advice)
            if name == STATE:
                self._read_state()

    def verify_sizes(self) -> None:
        """Compare the sizes of the files with COMPLETE, and check the state, without reading the tensors. Raises
        DamagedFile and NewerFormat."""
        for name, (size, _) in self._files().items():
            self._check_size(name, size)
        self._read_state()

    def _files(self) -> dict[str, tuple[int, str]]:
        """Return the size and checksum of each file, as COMPLETE has them. Raises DamagedFile and NewerFormat."""
        mark = self.path / COMPLETE
        try:
            value = strict_json.read_object(mark, self.advice)
            number = strict_json.check(value, CheckpointFormat).format
            if number > FORMAT:
                raise NewerFormat(self.path, number)
            files = strict_json.check(value, CheckpointFiles).files
        except (DamagedFile, Wrong):
            raise strict_json.damage(mark, "not what was written", self.advice) from None
        if unknown := sorted({file.name for file in self.path.glob("*.safetensors")} - files.keys()):
            raise strict_json.damage(self.path / unknown[0], f"not one of the files in {COMPLETE}", self.advice)
        return files

    def _check_size(self, name: str, size: int) -> None:
        file = self.path / name
        if not is_file(file):
            raise DamagedFile(f"{file}: missing from the checkpoint ({self.advice})")
        if (found := file.stat().st_size) != size:
            what = f"its content is not what was written: {found:,} bytes instead of {size:,}"
            raise strict_json.damage(file, what, self.advice)

    def tensors(self) -> dict[str, TensorEntry]:
        """Return the shapes and types of the tensors by name: `model.<name>` and `optimizer.<name>.<moment>`. Raises
        DamagedFile."""
        from torch.distributed.checkpoint import HuggingFaceStorageReader

        for file in self.path.glob("*.safetensors"):
            with strict_json.opened(file, self.advice):  # the library would wait for a pipe
                continue
        try:
            entries = HuggingFaceStorageReader(str(self.path)).read_metadata().state_dict_metadata
        except Exception as error:  # the library's errors have no common type
            what = f"its tensors cannot be listed: {first_line(error)}"
            raise strict_json.damage(self.path, what, self.advice) from None
        return {name: TensorEntry(tuple(entry.size), entry.properties.dtype) for name, entry in entries.items()}

    def read_into(self, tensors: "dict[str, torch.Tensor]", all_ranks: bool) -> None:
        """Read these tensors in place, each rank its shards.

        `all_ranks`: every rank of the process group makes this call; otherwise this rank reads alone.
        """
        import torch.distributed.checkpoint as dcp

        reader = dcp.HuggingFaceStorageReader(str(self.path))
        _run(lambda: dcp.load(tensors, storage_reader=reader, no_dist=not all_ranks))

    def set_aside(self) -> Path:
        """Rename a damaged checkpoint, so that it is neither loaded nor counted nor removed. Returns its new path."""
        names = (f"{self.path.name}.damaged{number}" for number in ("", *(f"-{i}" for i in range(2, 1000))))
        aside = next(path for path in map(self.path.with_name, names) if not exists(path))
        self.path.rename(aside)
        flush(aside.parent)
        return aside

    def remove(self) -> None:
        """Remove the checkpoint, COMPLETE first, so that a killed removal leaves an incomplete checkpoint."""
        (self.path / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(self.path)


def _share(files: Mapping[str, tuple[int, str]], index: int, shares: int) -> list[str]:
    """Return the names of one of several shares of the files. Shares have about equal sizes: each file goes to the
    smallest share, the largest files first."""
    sizes, names = [0] * shares, [list[str]() for _ in range(shares)]
    for name in sorted(files, key=lambda name: (-files[name][0], name)):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += files[name][0]
        names[smallest].append(name)
    return names[index]


class Part(NamedTuple):
    """A part of a tensor, in host memory. `offsets`: of its first element in the whole tensor."""

    offsets: tuple[int, ...]
    values: "torch.Tensor"


def write_parts(parts: Mapping[str, Part], partial: Path, rank: int) -> dict[str, str]:
    """Write and flush this rank's parts of the tensors, by name, into the folder of a new checkpoint. Returns the
    checksums of its files by name.

    The file is that of torch.distributed.checkpoint.HuggingFaceStorageWriter, and HuggingFaceStorageReader reads it.
    That writer makes a copy of all bytes and holds Python's lock meanwhile, in which no other thread can train.
    """
    from safetensors.torch import save_file

    if not parts:
        return {}
    file = partial / f"shard-{rank + 1:05d}-model-00001-of-00001.safetensors"
    offsets = {name: {"saved_offsets": part.offsets} for name, part in parts.items()}
    metadata = {"DCP_SHARDING_INFO": json.dumps(offsets), "DCP_VERSION": "1.0", "format": "pt"}
    save_file({name: part.values for name, part in parts.items()}, file, metadata)
    file.chmod(partial.stat().st_mode & 0o666)  # safetensors 0.8 writes it for its owner alone
    flush(file)
    return {file.name: checksum(file)}


def publish(
    partial: Path,
    final: Path,
    state: JsonObject,
    recipe: Path,
    still_ours: Callable[[], bool],
    flushed: Mapping[str, str] = MappingProxyType({}),
) -> bool:
    """Complete the folder `partial` and rename it to `final`. Returns whether the checkpoint exists.

    The state and the recipe are written, everything is flushed, the folder is renamed, and COMPLETE is written, in this
    order. If `still_ours` returns False before the rename, `partial` is removed and the result is False. `flushed`: the
    checksums of files that other ranks have flushed, by name.
    """
    (partial / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    shutil.copyfile(recipe, partial / RECIPE)
    files = {}
    for file in sorted(partial.iterdir()):
        if file.name not in flushed:
            flush(file)
        files[file.name] = [file.stat().st_size, flushed.get(file.name) or checksum(file)]
    flush(partial)
    if not still_ours():
        shutil.rmtree(partial, ignore_errors=True)
        return False
    if final.exists():  # saved by a start that did not yet know of its lost lease
        SavedCheckpoint(final).remove()
    partial.rename(final)
    flush(final.parent)
    write(final / COMPLETE, json.dumps({"format": FORMAT, "files": files}, indent=1))
    flush(final)
    return True


def _run(action: Callable[[], None]) -> None:
    """Call torch.distributed.checkpoint. Raises RuntimeError with the failure of the first rank that failed."""
    from torch.distributed.checkpoint.api import CheckpointException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns if there is no process group
        try:
            action()
        except CheckpointException as error:  # a BaseException, which handlers of failures do not catch
            first = next(iter(error.failures.values()), (error,))[0]
            raise RuntimeError(f"{type(first).__name__}: {first}") from None
