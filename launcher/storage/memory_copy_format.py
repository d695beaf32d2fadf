"""The files of a copy in memory: safetensors, each with a mark in JSON.

A mark is removed before its file is overwritten, and written after it, with the checksum. A file without a mark is
incomplete and never read, so that a process may be killed at any time.
"""

import json
import mmap
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from launcher.config import strict_json
from launcher.config.atomic_files import write
from launcher.config.strict_json import Count, DamagedFile, Stored, Word, Wrong
from launcher.config.types import JsonObject
from launcher.storage import checkpoint_format
from launcher.storage.run_files import CheckpointState

HINT = "the launcher removes it"
_ALIGNMENT = 64
"""Bytes that the header of a file is padded to, so that tensors are aligned."""


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
            mark = strict_json.read(self.mark, Mark, HINT)
            strict_json.check(mark.state, CheckpointState)
            if mark.state["step"] == mark.step and self.mark.name.startswith(f"{stem(mark.rank)}."):
                return mark
        return None

    def whole(self, mark: Mark) -> bool:
        """Return whether the file has the size and the checksum of its mark."""
        with suppress(OSError):
            return self.file.stat().st_size == mark.size and checkpoint_format.checksum(self.file) == mark.checksum
        return False


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


def stem(rank: int) -> str:
    """Return the beginning of the names of a rank's files."""
    return f"rank-{rank:05d}"
