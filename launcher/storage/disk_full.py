"""Recognise full disks, exhausted quotas, file size limits and failing disks in errors of any library, and report
them."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.config.atomic_files import free_bytes, nearest
from launcher.config.errors import UserError
from launcher.config.format import human

_SHARED_MEMORY = Path("/dev/shm")
"""Shared memory on Linux. Its errors name no path in this folder."""
_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FAILING = (errno.EIO, errno.EROFS, errno.ESTALE, errno.EREMOTEIO)


class DiskFailed(RuntimeError):
    """Error: the files of a run cannot be written. The message is a complete sentence."""


class DiskFull(DiskFailed):
    """Error: there is no room for the files of a run."""


def number(error: BaseException, numbers: tuple[int, ...] = _NUMBERS) -> int | None:
    """Return the number of `error` if it is one of `numbers` (by default ENOSPC, EDQUOT and EFBIG), else None.

    Errors of a library's own type are recognised by the system's message in their text.
    """
    if isinstance(error, OSError) and error.errno in numbers:
        return error.errno
    return next((each for each in numbers if os.strerror(each) in str(error)), None)


def cause_of(error: BaseException) -> int | None:
    """Return the number of an error that a full or failing disk caused, else None."""
    return number(error, _NUMBERS + _FAILING)


def cause(folder: Path, number: int) -> str:
    """Return what is exhausted for a file in `folder`: the quota, the file size limit, the inodes or the disk; or how
    the disk fails."""
    if number in _FAILING:
        how = "is read-only" if number == errno.EROFS else f"fails ({os.strerror(number)})"
        return f"the disk of {folder} {how}"
    if number == errno.EDQUOT:
        return f"the quota on the disk of {folder} is used up"
    if number == errno.EFBIG:
        soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        limit = "of its file system" if soft == resource.RLIM_INFINITY else f"of {human(soft)} (ulimit -f)"
        return f"a file in {folder} would exceed the largest size {limit}"
    disk = os.statvfs(nearest(folder))
    if disk.f_files and not disk.f_favail:
        return f"the disk of {folder} is full: it has no inodes left for another file"
    return f"the disk of {folder} is full"


def sentence(folder: Path, number: int, needed: int | None = None, advice: str = "make room there") -> str:
    """Return a sentence with the exhausted resource, the bytes that are needed and free, and advice."""
    if number in _FAILING:
        return f"{cause(folder, number)}: nothing can be written there (repair or remount it)"
    if number == errno.EFBIG:
        return f"{cause(folder, number)} (raise that limit, or use another disk)"
    sizes = f"{human(free_bytes(folder))} are free"
    if needed is not None:
        sizes = f"about {human(needed)} are needed, {sizes}"
    return f"{cause(folder, number)}: {sizes} ({advice})"


def unexpected(error: Exception) -> str | None:
    """Return a sentence about an unexpected error that a full disk caused; None for any other error."""
    found = number(error)
    if found is None:
        return None
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return sentence(Path(error.filename).parent, found)
    return f"{os.strerror(found)}: nothing more can be written (is the disk full that the output goes to?)"


def _place(error: Exception, folder: Path) -> Path:
    """Return the full folder: `folder`, shared memory, or that of the file in `error` if it is on another disk."""
    if "shm" in str(error) or "shared memory" in str(error):
        return _SHARED_MEMORY
    if isinstance(error, OSError) and isinstance(error.filename, str):
        other = Path(error.filename).parent
        if nearest(other).stat().st_dev != nearest(folder).stat().st_dev:
            return other
    return folder


@contextmanager
def reported(
    folder: Path,
    needed: int | None = None,
    advice: str = "make room there",
    kind: Callable[[str], Exception] = DiskFull,
) -> Iterator[None]:
    """Replace an error of a full disk in the block by an exception of `kind`.

    The exception has the sentence about the full disk and the notes of the error. `folder`: where the block writes;
    `needed`: bytes that it writes.
    """
    try:
        yield
    except (DiskFull, UserError):
        raise
    except Exception as error:
        found = number(error)
        if found is None:
            raise
        place = _place(error, folder)
        if place == _SHARED_MEMORY:
            needed, advice = None, "mount a larger tmpfs there; for a container: --shm-size=1g, or --ipc=host"
        full = kind(sentence(place, found, needed, advice))
        for note in getattr(error, "__notes__", ()):
            full.add_note(note)
        raise full from error


@contextmanager
def failing_reported(folder: Path) -> Iterator[None]:
    """Replace an error of a failing or read-only disk in the block by DiskFailed. `folder`: where the block writes."""
    try:
        yield
    except Exception as error:
        found = number(error, _FAILING)
        if found is None or isinstance(error, DiskFailed | UserError):
            raise
        raise DiskFailed(sentence(folder, found)) from error
