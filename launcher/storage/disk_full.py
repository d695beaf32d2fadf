"""Recognise a full disk, an exhausted quota and a limit on file sizes in the errors of any library, and report them in
one sentence."""

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


class DiskFull(RuntimeError):
    """There is no room for the files of a run. The message is a complete sentence."""


def number(error: BaseException) -> int | None:
    """The number of `error` if it is ENOSPC, EDQUOT or EFBIG, else None. Some libraries raise errors of their own with
    the system's message."""
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return error.errno
    return next((each for each in _NUMBERS if os.strerror(each) in str(error)), None)


def cause(folder: Path, number: int) -> str:
    """The exhausted resource, for a file in `folder`."""
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
    """The exhausted resource, the bytes that are needed and free, and advice."""
    if number == errno.EFBIG:
        return f"{cause(folder, number)} (raise that limit, or use another disk)"
    sizes = f"{human(free_bytes(folder))} are free"
    if needed is not None:
        sizes = f"about {human(needed)} are needed, {sizes}"
    return f"{cause(folder, number)}: {sizes} ({advice})"


def unexpected(error: Exception) -> str | None:
    """The sentence for an error that was not expected; None for other kinds of errors."""
    found = number(error)
    if found is None:
        return None
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return sentence(Path(error.filename).parent, found)
    return f"{os.strerror(found)}: nothing more can be written (is the disk full that the output goes to?)"


def _place(error: Exception, folder: Path) -> Path:
    """`folder`, or the folder of the file that `error` names if it is on another disk."""
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
    """Replace an error of a full disk in the block by an exception of `kind` with the sentence and the original's
    notes. `folder`: where the block writes; `needed`: bytes that it writes."""
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
