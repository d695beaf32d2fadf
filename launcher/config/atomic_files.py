"""Atomic writes, flushes to disk, and free space."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from launcher.config.errors import UserError


def write(file: Path, text: str, flushed: bool = True) -> None:
    """Write a text file atomically.

    `flushed`: whether the text is flushed to disk before the rename. If not, a power failure may leave an empty file:
    this is enough for messages between running processes and for cache entries that are checked when they are read.
    """
    with write_aside(file, flushed) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def write_aside(file: Path, flushed: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `file` when the block ends without an error.

    `flushed`: whether it is flushed to disk before the rename. If the block fails or writes nothing, `file` stays as it
    was. The temporary file never remains.
    """
    aside = partial_name(file)
    try:
        yield aside
        if aside.exists():
            if flushed:
                flush(aside)
            aside.replace(file)
    except OSError as error:
        if error.filename == str(aside):
            error.filename = str(file)  # the name that a user knows
        raise
    finally:
        aside.unlink(missing_ok=True)


def append_line(file: Path, line: str) -> None:
    """Append a line to a file that several processes may append to. If the last line there was cut, as of a writer that
    was killed, the new line still begins on its own. Raises OSError if the line cannot be written completely."""
    data = f"{line}\n".encode()
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            data = b"\n" + data
        if os.write(handle, data) != len(data):
            raise OSError(f"{file}: a line could not be written whole")
    finally:
        os.close(handle)


def partial_name(file: Path) -> Path:
    """Return a hidden name in the folder of `file` that is unique over all processes and machines."""
    return file.with_name(f".{file.name}.{uuid.uuid4().hex[:16]}.partial")


def expanded(name: str) -> Path:
    """Expand ~ in a path. If the user is unknown, ~ stays."""
    return Path(os.path.expanduser(name))  # noqa: PTH111  (pathlib raises for an unknown user)


def is_file(path: Path) -> bool:
    """Return whether the file exists; False for a name that the system refuses, such as a very long one."""
    return os.path.isfile(path)  # noqa: PTH113  (pathlib raises for a refused name)


def exists(path: Path) -> bool:
    """Return whether the path exists; False for a name that the system refuses."""
    return os.path.exists(path)  # noqa: PTH110  (pathlib raises for a refused name)


def is_dir(path: Path) -> bool:
    """Return whether the folder exists; False for a name that the system refuses."""
    return os.path.isdir(path)  # noqa: PTH112  (pathlib raises for a refused name)


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
    """Raise UserError if the current folder does not exist or cannot be entered."""
    try:
        os.stat(f"{Path.cwd()}/.")  # noqa: PTH116  (pathlib drops the dot, which tests the right to enter)
    except FileNotFoundError:
        raise UserError("the current folder does not exist any more (cd to another)") from None
    except OSError as error:
        raise UserError(f"the current folder cannot be entered: {error.strerror} (cd to another)") from None


def nearest(path: Path) -> Path:
    """Return the path if it exists, else the nearest existing folder above it."""
    while not os.path.exists(path):  # noqa: PTH110  (False also if the parent cannot be entered)
        path = path.parent
    return path


def free_bytes(path: Path) -> int:
    """Return the free bytes on the disk of a path. The path need not exist."""
    return shutil.disk_usage(nearest(path)).free


def allocated_bytes(folder: Path) -> int:
    """Return the bytes of disk that the files below a folder occupy."""
    blocks = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # a concurrent save renames its files
                blocks += os.lstat(Path(parent, name)).st_blocks
    return 512 * blocks
