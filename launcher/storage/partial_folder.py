"""Folders that appear complete or not at all, even if several processes write the same folder, or are killed."""

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from launcher.config.atomic_files import flush_tree
from launcher.storage.lease_file import process_namespace


@contextmanager
def filling(final: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `final`, and rename it to `final` when the block ends without an error.

    By then, `final` has to be missing or empty. The folder is flushed before the rename, and removed after an error.
    Folders that killed processes of this machine have left are removed first. Raises OSError.
    """
    aside = final.with_name(f".{final.name}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
    try:
        aside.mkdir(parents=True)
        _remove_abandoned(final)
        yield aside
        flush_tree(aside)
        aside.rename(final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(final: Path) -> None:
    """Remove the hidden folders of ended processes of this machine. A process on another machine may still be alive."""
    ours = re.compile(rf"{re.escape(f'.{final.name}.{_machine()}-')}(\d+)-[0-9a-f]+\.partial")
    with suppress(OSError):
        for path in list(final.parent.iterdir()):
            if (match := ours.fullmatch(path.name)) and not psutil.pid_exists(int(match[1])):
                shutil.rmtree(path, ignore_errors=True)


def _machine() -> str:
    """Return a short name of the machine and container, within which a process id is unique."""
    return hashlib.blake2b(process_namespace().encode(), digest_size=4).hexdigest()
