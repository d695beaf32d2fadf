"""Nothing is half-written: text is written aside and renamed; what must outlive a power failure is flushed first.
And how much room there is for it."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from launcher.config.errors import UserError


def write(file: Path, text: str) -> None:
    """Write a text file aside, then give it its name. Nothing is left of one that cannot be written."""
    aside = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def expanded(name: str) -> Path:
    """A path as a user writes it, with ~ for a home folder; that of an unknown user stays as it is."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 pathlib's raises there


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that the system refuses, such as a very long one, names none."""
    return os.path.isfile(path)  # noqa: PTH113 pathlib's raises there


def exists(path: Path) -> bool:
    """Whether there is such a path, likewise."""
    return os.path.exists(path)  # noqa: PTH110 pathlib's raises there


def is_dir(path: Path) -> bool:
    """Whether there is such a folder, likewise."""
    return os.path.isdir(path)  # noqa: PTH112 pathlib's raises there


def flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_tree(folder: Path) -> None:
    """Bring every file below a folder to the disk, then the folders."""
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
        flush(path)


def check_current_folder() -> None:
    """Raises UserError where the current folder, by which everything relative is found, cannot be used."""
    try:
        os.stat(f"{Path.cwd()}/.")  # noqa: PTH116  (pathlib drops the dot, by which the right to enter is tried)
    except FileNotFoundError:
        raise UserError("the current folder does not exist any more (cd to another)") from None
    except OSError as error:
        raise UserError(f"the current folder cannot be entered: {error.strerror} (cd to another)") from None


def nearest(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    while not os.path.exists(path):  # noqa: PTH110  (this one is False also where its parent cannot be entered)
        path = path.parent
    return path


def free_bytes(path: Path) -> int:
    """Free disk where `path` is or will be."""
    return shutil.disk_usage(nearest(path)).free


def allocated_bytes(folder: Path) -> int:
    """Disk that the files below a folder take up."""
    blocks = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # a save that goes on renames its files
                blocks += os.lstat(Path(parent, name)).st_blocks
    return 512 * blocks
