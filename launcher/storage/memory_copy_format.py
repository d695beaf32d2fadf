"""The copy of a run's state in the memory of a node: safetensors files in a folder of a tmpfs such as /dev/shm.

The folder outlives the ranks. Its name contains a hash of the run folder's path and of a random id in the run folder:
another user cannot guess it, and a deleted run is not mistaken for a new one with the same name. The file of a rank has
two slots, each with a mark in JSON. A mark is removed before its slot is overwritten, and written after it, with the
checksum. A slot without a mark is incomplete and never read, so that a process may be killed at any time.
"""

import fcntl
import hashlib
import json
import mmap
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from launcher.config import env_vars, paths, strict_json
from launcher.config.atomic_files import allocated_bytes, write
from launcher.config.format import human
from launcher.config.strict_json import Count, DamagedFile, Stored, Word, Wrong
from launcher.config.types import JsonObject
from launcher.storage import checkpoint_format
from launcher.storage.run_dir import RunDir
from launcher.storage.run_files import CheckpointState

SLOTS = (0, 1)
SHARE = 0.5
"""Maximum share of a node's memory that copies may take."""
_MARK = re.compile(r"rank-[0-9]{5,}\.[01]\.json")
_OWNER = "owner.json"
_HINT = "the launcher removes it"
_ALIGNMENT = 64
"""Bytes that the header of a file is padded to, so that tensors are aligned."""
_LOCK_SECONDS = 5.0


class UnusableFolder(Exception):
    """Error: a folder in memory cannot be used. The message has the reason and an advice."""


class Piece(NamedTuple):
    """A tensor in a file. `dtype`: as safetensors names it, such as F32. `size`: bytes."""

    dtype: str
    shape: tuple[int, ...]
    size: int


class Mark(Stored):
    """The mark of a complete slot.

    `layout`: digest of what a start needs to have in common with it. `pieces`: numbers of the tensors in the file among
    all `total` tensors of all ranks. `shapes`: whole shape of each tensor of the state, by name. `size`, `checksum`: of
    the file. `state`: see CheckpointState.
    """

    step: Count
    rank: Count
    layout: Word
    pieces: list[Count]
    total: Count
    shapes: dict[Word, list[Count]]
    size: Count
    checksum: Word
    state: JsonObject

    def text(self) -> str:
        """Return the content of the mark's file."""
        return json.dumps(self.model_dump())

    def reduced(self) -> "Mark":
        """Return the mark without the state and the shapes, for an exchange with other ranks."""
        return self.model_copy(update={"state": {}, "shapes": {}})

    @classmethod
    def of(cls, text: bytes) -> "Mark":
        """Parse the content of a mark's file. Raises Wrong."""
        return strict_json.check(strict_json.parse(text), cls)


class _Owner(Stored):
    """The run that a folder belongs to. `id`: content of the run's memory.id."""

    run: str
    id: Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Slot:
    """One of the two places for a rank's file. `file`: the safetensors file; `mark`: its mark."""

    file: Path
    mark: Path

    def map(self, size: int) -> mmap.mmap:
        """Return the file mapped for writing, with this size. All of its memory is allocated before, so that no write
        can fail. Raises OSError; the file then does not exist."""
        handle = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(handle, size)
            os.posix_fallocate(handle, 0, size)
            return mmap.mmap(handle, size)
        except OSError:
            self.file.unlink()
            raise
        finally:
            os.close(handle)

    def invalidate(self) -> None:
        """Remove the mark, before the file is overwritten."""
        self.mark.unlink(missing_ok=True)

    def complete(self, mark: Mark) -> None:
        """Write the mark, after the file."""
        write(self.mark, mark.text(), flushed=False)

    def read(self) -> Mark | None:
        """Return the mark; None: the slot is incomplete, or the mark is damaged."""
        with suppress(DamagedFile, Wrong, OSError):
            mark = strict_json.read(self.mark, Mark, _HINT)
            strict_json.check(mark.state, CheckpointState)
            if mark.state["step"] == mark.step and self.mark.name.startswith(f"{_name(mark.rank)}."):
                return mark
        return None

    def whole(self, mark: Mark) -> bool:
        """Return whether the file has the size and the checksum of its mark."""
        with suppress(OSError):
            return self.file.stat().st_size == mark.size and checkpoint_format.checksum(self.file) == mark.checksum
        return False


@dataclass(frozen=True)
class MemoryFolder:
    """The folder of one run on this node. `run`: the run folder; `id`: content of its memory.id."""

    run: Path
    id: str

    @property
    def path(self) -> Path:
        digest = hashlib.blake2b(f"{self.run.resolve()}\n{self.id}".encode(), digest_size=10).hexdigest()
        return root() / f"launcher-{os.getuid()}-{digest}"

    def create(self) -> None:
        """Create the folder for this user alone, unless it exists. Raises UnusableFolder."""
        try:
            _check_parent(root())
            self.path.mkdir(mode=0o700, exist_ok=True)
            found = self.path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise UnusableFolder(f"{self.path} is no folder of this user alone (remove it)")
            write(self.path / _OWNER, json.dumps({"run": str(self.run.resolve()), "id": self.id}), flushed=False)
        except OSError as error:
            what = f"{self.path} cannot be created: {error.strerror or error}"
            raise UnusableFolder(f"{what} ({env_vars.MEMORY} names another tmpfs)") from None

    def node(self) -> str:
        """Return a text that is the same for the processes that see this very folder."""
        found, boot = self.path.stat(), ""
        with suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{found.st_dev}:{found.st_ino}"

    def lock(self, rank: int) -> int:
        """Lock the files of a rank for as long as this process lives. Returns the handle of the lock, which has to stay
        open. Raises UnusableFolder if another process has the lock."""
        handle = os.open(
            self.path / f"{_name(rank)}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, no child of a dead rank keeps it
                return handle
            except OSError:
                if time.monotonic() > deadline:
                    os.close(handle)
                    what = f"rank {rank} of another start still uses {self.path}"
                    raise UnusableFolder(f"{what} (end that process)") from None
            time.sleep(0.1)

    def slot(self, rank: int, number: int) -> Slot:
        """Return a slot for the file of a rank. `number`: 0 or 1."""
        stem = self.path / f"{_name(rank)}.{number}"
        return Slot(stem.with_name(f"{stem.name}.safetensors"), stem.with_name(f"{stem.name}.json"))

    def slot_but(self, rank: int, kept: int | None) -> Slot:
        """Return the slot to overwrite next: not the one that holds step `kept`."""
        first, second = (self.slot(rank, number) for number in SLOTS)
        mark = first.read() if kept is not None else None
        return second if mark is not None and mark.step == kept else first

    def marks(self, layout: str) -> list[tuple[Slot, Mark]]:
        """Return the complete slots of this layout, in the order of ranks."""
        found = list[tuple[Slot, Mark]]()
        for file in sorted(self.path.iterdir()):
            if _MARK.fullmatch(file.name):
                slot = Slot(file.with_suffix(".safetensors"), file)
                mark = slot.read()
                if mark is not None and mark.layout == layout:
                    found.append((slot, mark))
        return found

    def keep_only(self, step: int | None) -> None:
        """Remove all slots but the complete ones of a step, and files that a killed process left. None: remove all."""
        for file in self.path.iterdir():
            if file.suffix in (".json", ".partial") and file.name != _OWNER:
                mark = Slot(file.with_suffix(".safetensors"), file).read() if step is not None else None
                if mark is None or mark.step != step:
                    file.unlink(missing_ok=True)
        for data in self.path.glob("*.safetensors"):
            if not data.with_suffix(".json").exists():
                data.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder, which gives its memory back."""
        shutil.rmtree(self.path, ignore_errors=True)


def root() -> Path:
    """Return the tmpfs of the copies: $LAUNCHER_MEMORY, else /dev/shm."""
    return Path(os.environ.get(env_vars.MEMORY) or "/dev/shm")


def run_id(folder: RunDir, create: bool) -> str | None:
    """Return the id of a run, as the rank with the right to write finds it. `create`: write a new one if there is none,
    or if it is damaged. None: there is none."""
    file = folder.path / paths.MEMORY_ID
    with suppress(DamagedFile, UnicodeDecodeError):
        with strict_json.opened(file, _HINT) as data:
            text = data.read(64).decode()
        if re.fullmatch(r"[0-9a-f]{32}\n", text):
            return text.strip()
    if not create:
        return None
    new = secrets.token_hex(16)
    write(file, f"{new}\n")
    return new


def sweep() -> None:
    """Remove this user's folders of runs that are deleted, or were made anew."""
    for folder in root().glob(f"launcher-{os.getuid()}-*"):
        with suppress(OSError, DamagedFile):
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            owner = strict_json.read(folder / _OWNER, _Owner, _HINT)
            if run_id(RunDir(Path(owner.run)), create=False) != owner.id:
                shutil.rmtree(folder, ignore_errors=True)


def used_by(run: RunDir) -> int:
    """Return the bytes of this node's memory that the copies of a run occupy now."""
    id = run_id(run, create=False)
    return allocated_bytes(MemoryFolder(run.path, id).path) if id else 0


def misfit(needed: int, free: int, memory: int) -> str:
    """Return why copies do not fit into the memory of a node, with an advice; empty: they fit. `needed`: bytes of all
    slots; `free`: bytes of the tmpfs; `memory`: bytes of the node."""
    advice = "leave checkpoint.memory out, or use a strategy that shards more"
    if needed > free:
        what = f"copies take {human(needed)} of each node, {human(free)} are free at {root()}"
        return f"{what} (a larger one, such as docker run --shm-size, or {env_vars.MEMORY}; or {advice})"
    if needed > SHARE * memory:
        what = f"copies take {human(needed)} of each node, more than {SHARE:.0%} of its {human(memory)}"
        return f"{what} ({advice})"
    return ""


def header(pieces: Mapping[str, Piece]) -> bytes:
    """Return the beginning of a safetensors file, before the bytes of its tensors: the length of the table (8 bytes,
    little endian) and the table in JSON, padded with spaces."""
    table, offset = dict[str, object](), 0
    for name, (dtype, shape, size) in pieces.items():
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(table).encode()
    padded = text.ljust(-(-(len(text) + 8) // _ALIGNMENT) * _ALIGNMENT - 8)
    return len(padded).to_bytes(8, "little") + padded


def _name(rank: int) -> str:
    return f"rank-{rank:05d}"


def _check_parent(folder: Path) -> None:
    """Raise UnusableFolder if other users can replace what is in the folder."""
    mode = folder.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
        raise UnusableFolder(f"other users can replace what is in {folder} ({env_vars.MEMORY} names another tmpfs)")
