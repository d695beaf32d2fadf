"""Who holds a lease and lives, as one sees it who does not wait for the lease.

No two clocks are compared: a clock of this machine and one of the disk's server may be hours apart.
"""

import math
import os
import tempfile
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from launcher.storage import lease
from launcher.storage.lease import Holder

RECENT = 30.0
"""Seconds since its last beat within which a holder on another machine is taken to live."""


def holders(folders: Iterable[Path], name: str) -> dict[Path, Holder]:
    """The living holders of the lease of this name, by folder. Whether a process of this machine lives is seen. One
    elsewhere has beaten lately by the clock of the folder's file system; where that cannot be asked, it beats now."""
    found = {folder: held for folder in folders if (held := lease.held(folder, name)) and not held[1].dead()}
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


def _heard(files: Collection[Path]) -> set[Path]:
    """Those of these leases that are seen to beat within the time of three beats."""
    first, heard = {file: lease.read(file) for file in files}, set[Path]()
    end = time.monotonic() + 3 * lease.BEAT
    while len(heard) < len(first) and time.monotonic() < end:
        time.sleep(lease.BEAT / 20)
        heard |= {file for file, before in first.items() if lease.read(file) not in (None, before)}
    return heard


def _disk_time(folder: Path) -> float | None:
    """The time now by the clock of a folder's file system, in seconds since the epoch; None where none can be asked."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:
        return None


def _beaten(file: Path) -> float:
    """When the last beat was written, by the same clock."""
    try:
        return file.stat().st_mtime
    except OSError:
        return -math.inf
