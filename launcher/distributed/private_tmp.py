"""A private temporary folder for each start, which no other user can reach.

Otherwise torch's error files, which are read as pickles, the sockets of multiprocessing and the ranks' rendezvous would
be in a folder where any user of the machine may write. Compiled code should outlive a start, and therefore goes to the
user's cache.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import stat
import tempfile
from contextlib import suppress
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path

from launcher.config.errors import UserError

_PREFIX = "launcher-"
_LOCK = ".lock"
_MAX_PARENT = 51
"""Maximum number of characters of the parent folder's path. A socket's path has at most 107, of which this folder adds
25 and multiprocessing 31."""
_AFTER_SOCKETS = -200
"""Priority of the clean-up at the exit: multiprocessing removes its own folder, which is inside, at -100."""
_OVERFLOW_USER = 65534
"""Owner that a container shows for files of users unknown to it, such as root outside."""
_locks: dict[Path, int] = {}
_ours: list[Path] = []


def enter() -> Path:
    """Create the temporary folder of this process and its descendants, or enter an inherited one. Returns the folder.

    It is removed at the exit. If all of its processes are killed, the next start removes it. Raises UserError if no
    folder can be used.
    """
    inherited = Path(os.environ.get("TMPDIR", ""))
    if inherited.name.startswith(_PREFIX) and (inherited / _LOCK).is_file():
        hold(inherited)
        tempfile.tempdir = str(inherited)
        return inherited
    folder = _create()
    _ours.append(folder)
    Finalize(None, leave, exitpriority=_AFTER_SOCKETS)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_compiled() or folder / "compiled"))
    return folder


def leave() -> None:
    """Remove the folder if this process created it. Called at the exit, or before os._exit."""
    while _ours:
        shutil.rmtree(_ours.pop(), ignore_errors=True)


def hold(folder: Path) -> None:
    """Keep other starts from removing the folder for as long as this process lives."""
    if folder not in _locks:
        _lock(folder)


def _lock(folder: Path, new: bool = False) -> None:
    """Take a shared lock of the folder, which the kernel releases when the process dies.

    `new`: create the lock file. It gets its name only after it is locked, because other starts remove folders with a
    lock file that is not locked.
    """
    file = folder / (f"{_LOCK}.new" if new else _LOCK)
    _locks[folder] = os.open(file, os.O_RDONLY | (os.O_CREAT if new else 0), 0o600)
    fcntl.flock(_locks[folder], fcntl.LOCK_SH)
    if new:
        file.rename(folder / _LOCK)


def _create() -> Path:
    """Create a locked folder in the first usual place that is safe, short enough for sockets, and supports locks.

    Raises UserError if there is none.
    """
    wanted, why = os.environ.get("TMPDIR", ""), "no temporary folder can be used"
    for place in filter(None, (wanted, "/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR"))):
        if len(place) > _MAX_PARENT or not _safe(Path(place)):
            why = f"{place} is too long, or other users can replace what is in it"
            continue
        try:
            return _create_in(Path(place))
        except OSError as error:
            why = f"{place}: {error.strerror or error}"
    raise UserError(f"TMPDIR: {why} (set it to a short path of your own)")


def _create_in(place: Path) -> Path:
    """Create a locked folder in `place`. Raises OSError, and then leaves nothing behind."""
    _sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{_machine()}-", dir=place))
    try:
        _lock(folder, new=True)
    except OSError:
        if folder in _locks:
            os.close(_locks.pop(folder))
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


@cache
def _machine() -> str:
    """Return six digits that identify this machine since its boot.

    A lock on a shared disk may exclude only processes of the same machine.
    """
    name = socket.gethostname()
    with suppress(OSError):
        name += Path("/proc/sys/kernel/random/boot_id").read_text()
    return hashlib.blake2b(name.encode(), digest_size=3).hexdigest()


def _safe(folder: Path) -> bool:
    """Return whether only this user and root can rename or remove this user's files in a folder."""
    with suppress(OSError):
        found = folder.stat()
        shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
        return not shared and found.st_uid in (0, os.getuid(), _OVERFLOW_USER)
    return False


def _sweep(around: Path) -> None:
    """Remove this user's folders in `around` whose processes were all killed."""
    for folder in around.glob(f"{_PREFIX}{_machine()}-*"):
        with suppress(OSError):
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _compiled() -> Path | None:
    """Return the cache of this user's compiled code; None: no folder belongs to this user alone."""
    with suppress(OSError, RuntimeError):  # no home, or one that cannot be written to
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "launcher" / "torchinductor"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return folder
    return None
