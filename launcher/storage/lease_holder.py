"""Find live holders of leases without waiting for the leases.

The clocks of this machine and of the disk's server are never compared: they may differ by hours.
"""

import math
import os
import tempfile
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from launcher.storage import lease, lease_file
from launcher.storage.lease_file import Holder

RECENT = 30.0
"""Seconds after its last heartbeat during which a holder on another machine counts as alive."""


def holders(folders: Iterable[Path], name: str) -> dict[Path, Holder]:
    """Return the live holders of the lease of this name, by folder.

    A holder on another machine is live if its last heartbeat is recent by the clock of the folder's file system. If
    that clock cannot be read, it is live if it sends a new heartbeat now.
    """
    found = {folder: held for folder in folders if (held := _held(folder, name)) and not held[1].dead()}
    silent, unknown = set[Path](), dict[Path, Path]()
    for folder, (file, holder) in found.items():
        if holder.local():
            continue
        now = _disk_time(folder)
        if now is None:
            unknown[file] = folder
        elif now - _beaten(file) > RECENT:
            silent.add(folder)
    heard = _heard(unknown)
    silent |= {folder for file, folder in unknown.items() if file not in heard}
    return {folder: holder for folder, (_, holder) in found.items() if folder not in silent}


def _held(folder: Path, name: str) -> tuple[Path, Holder] | None:
    with suppress(OSError):  # one folder of many
        return lease_file.held(folder, name)
    return None


def _heard(files: Collection[Path]) -> set[Path]:
    """Return the leases that get a new heartbeat within the time of three heartbeats."""
    first, heard = {file: _read(file) for file in files}, set[Path]()
    end = time.monotonic() + 3 * lease.BEAT
    while len(heard) < len(first) and time.monotonic() < end:
        time.sleep(lease.BEAT / 20)
        heard |= {file for file, before in first.items() if _read(file) not in (None, before)}
    return heard


def _read(file: Path) -> Holder | None:
    with suppress(OSError):
        return lease_file.read(file)
    return None


def _disk_time(folder: Path) -> float | None:
    """Return the time by the clock of a folder's file system, in seconds since the epoch; None: it cannot be read."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:
        return None


def _beaten(file: Path) -> float:
    """Return the time of the last heartbeat, by the clock of the file system; minus infinity: it cannot be read."""
    try:
        return file.stat().st_mtime
    except OSError:
        return -math.inf
