"""Disks: free bytes and inodes, and whether a folder takes files, atomic renames included; and at what speed."""

import os
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launcher.config.atomic_files import nearest
from launcher.config.format import human
from launcher.health.finding import Check, Finding
from launcher.storage import disk_full

FEW_BYTES, NO_BYTES = 2 * 2**30, 64 * 2**20
"""Free bytes of a disk below which doctor warns, and fails: a checkpoint of a small model takes more."""
FEW_INODES, NO_INODES = 20_000, 500
"""The same for inodes. A run makes some hundreds of files."""
SLOW = 20 * 10**6
"""Bytes per second of a flushed write below which a folder is slow."""
PROBE_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Space:
    """Room on a disk. `inodes`: free ones; None: the file system has no fixed number."""

    free: int
    total: int
    inodes: int | None


@dataclass(frozen=True)
class Written:
    """What writing, flushing, renaming and reading a file in a folder gave. `problem`: why it failed; empty: it did
    not. `speed`: bytes per second, flushed."""

    problem: str = ""
    speed: float = 0.0


def space(folder: Path) -> Space:
    """Return the room on the disk of a folder, which need not exist. Raises OSError."""
    disk = os.statvfs(nearest(folder))
    inodes = disk.f_favail if disk.f_files else None
    return Space(disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize, inodes)


def write_probe(folder: Path, size: int = PROBE_BYTES) -> Written:
    """Write, flush, rename over an existing file, read back and remove a small file in a folder or, if it does not
    exist, in the nearest one above it."""
    place = nearest(folder)
    file, renamed = (place / f".doctor-{uuid.uuid4().hex[:16]}-{end}" for end in "ab")
    content, begin = os.urandom(size), time.monotonic()
    try:
        renamed.write_bytes(b"old")
        with file.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        seconds = time.monotonic() - begin
        file.replace(renamed)
        if renamed.read_bytes() != content:
            return Written("a renamed file has another content than was written")
    except OSError as error:
        if (number := disk_full.cause_of(error)) is not None:
            return Written(disk_full.cause(place, number))
        return Written(f"{place} cannot be written to: {error.strerror}")
    finally:
        for left in (file, renamed):
            with suppress(OSError):
                left.unlink(missing_ok=True)
    return Written(speed=size / max(seconds, 1e-9))


def findings(what: str, folder: Path, room: Space, written: Written, cure: str) -> list[Finding]:
    """Return the finding about a folder. `what`: its purpose, such as cache. `cure`: how to choose another folder."""
    check = Check("disks", what)
    inodes = "" if room.inodes is None else f", {room.inodes:,} inodes"
    sizes = f"{human(room.free)} of {human(room.total)}{inodes} free"
    if written.problem:
        return [check.failure(f"{written.problem} ({sizes})", cure)]
    if room.free < NO_BYTES or (room.inodes is not None and room.inodes < NO_INODES):
        return [check.failure(f"{folder}: the disk is full: {sizes}", f"make room there, or {cure}")]
    if room.free < FEW_BYTES or (room.inodes is not None and room.inodes < FEW_INODES):
        return [check.warning(f"{folder}: {sizes}", f"make room there, or {cure}")]
    speed = f"{written.speed / 1e6:,.0f} MB/s"
    if written.speed < SLOW:
        return [check.warning(f"{folder}: {sizes}, but a write takes only {speed}", f"use a faster disk: {cure}")]
    return [check.ok(f"{folder}: {sizes}, {speed}")]


def probed(what: str, folder: Path, cure: str) -> list[Finding]:
    """Probe a folder, and return the finding."""
    try:
        return findings(what, folder, space(folder), write_probe(folder), cure)
    except OSError as error:
        return [Check("disks", what).failure(f"{folder} cannot be looked at: {error.strerror}", cure)]


def temporary_problem() -> str | None:
    """Return what is wrong with the disk of this host's temporary files; None: it can be written to."""
    try:
        _write_a_little(Path(tempfile.gettempdir()))
    except OSError as error:
        return f"its temporary folder {tempfile.gettempdir()} cannot be written to ({error.strerror})"
    return None


def start_problem(folders: Sequence[Path]) -> str | None:
    """Return the first folder whose disk has no room at all; None: each has some.

    A disk that says so is written to as well: some file systems do not know their room and report 0, and root may write
    into the reserve.
    """
    for folder in folders:
        with suppress(OSError):
            room = space(folder)
            if (room.free == 0 or room.inodes == 0) and not _takes_a_little(nearest(folder)):
                what = "has no inodes left" if room.free else "is full"
                return f"the disk of {folder} {what}: {human(room.free)} of {human(room.total)} are free on it"
    return None


def _takes_a_little(folder: Path) -> bool:
    try:
        _write_a_little(folder)
    except OSError:
        return False
    return True


def _write_a_little(folder: Path) -> None:
    """Write and flush a temporary file without a name. Raises OSError."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())
