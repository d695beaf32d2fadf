"""Atomic writes, flushes to disk, and free space."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from launcher.config.errors import UserError


def write(file: Path, text: str, flushed: bool = True) -> None:
    """Write a text file atomically. `flushed`: False for a message that only living processes read, or an entry of a
    cache that is checked when it is read; after a power failure, the file may then be there without its content."""
    with write_aside(file, flushed) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def write_aside(file: Path, flushed: bool = True) -> Iterator[Path]:
    """Yield a temporary name to write a file under, which is flushed and renamed when the block ends without an error.
    Nothing is left of a failed write, and there is no file if the block writes nothing."""
    aside = partial_name(file)
    try:
        yield aside
        if aside.exists():
            if flushed:
                flush(aside)
            aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def partial_name(file: Path) -> Path:
    """A hidden name beside a file that no other process uses, on any machine."""
    return file.with_name(f".{file.name}.{uuid.uuid4().hex[:16]}.partial")


def expanded(name: str) -> Path:
    """Expand ~ in a path. The ~ of an unknown user stays."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 pathlib's raises there


def is_file(path: Path) -> bool:
    """Whether the file exists. A name that the system refuses, such as a very long one, does not."""
    return os.path.isfile(path)  # noqa: PTH113 pathlib's raises there


def exists(path: Path) -> bool:
    """Whether the path exists. A name that the system refuses does not."""
    return os.path.exists(path)  # noqa: PTH110 pathlib's raises there


def is_dir(path: Path) -> bool:
    """Whether the folder exists. A name that the system refuses does not."""
    return os.path.isdir(path)  # noqa: PTH112 pathlib's raises there


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_tree(folder: Path) -> None:
    """Flush all files below a folder to disk, then the folders."""
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
        flush(path)


def check_current_folder() -> None:
    """Raise UserError where the current folder does not exist, or cannot be entered."""
    try:
        os.stat(f"{Path.cwd()}/.")  # noqa: PTH116  (pathlib drops the dot, by which the right to enter is tried)
    except FileNotFoundError:
        raise UserError("the current folder does not exist any more (cd to another)") from None
    except OSError as error:
        raise UserError(f"the current folder cannot be entered: {error.strerror} (cd to another)") from None


def nearest(path: Path) -> Path:
    """The path, or the nearest existing folder above it."""
    while not os.path.exists(path):  # noqa: PTH110  (this one is False also where its parent cannot be entered)
        path = path.parent
    return path


def free_bytes(path: Path) -> int:
    """Free bytes on the disk of a path, which may not exist yet."""
    return shutil.disk_usage(nearest(path)).free


def allocated_bytes(folder: Path) -> int:
    """Bytes of disk that the files below a folder occupy."""
    blocks = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # a save that goes on renames its files
                blocks += os.lstat(Path(parent, name)).st_blocks
    return 512 * blocks
