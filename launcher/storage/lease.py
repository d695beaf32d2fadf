"""Leases: an exclusive right among processes on any number of machines that share a folder.

The holder writes heartbeats into a file. If they stop for a while, the holder counts as dead, and another process takes
over: it creates the file with the next number, which only one process can do. If a holder was wrongly counted as dead,
it finds the newer file. Heartbeats are counters, not times, because the clocks of machines may differ. File locks do
not work here: on a shared disk they outlive a lost machine, or have no effect.
"""

import logging
import threading
import time
from contextlib import suppress
from pathlib import Path

from launcher.storage.lease_file import Holder, is_gone, number, read, split_name
from launcher.storage.lease_file import newest as _newest

BEAT = 2.0
"""Seconds between two beats."""
SILENCE = 10.0
"""Seconds without a beat after which a holder counts as dead."""

_log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """Error: another process has taken over the lease, or may have.

    It may have if this process sent no heartbeat for too long, if the file or folder is gone or cannot be read, or if
    the job has a later start.
    """


class LeaseHeld(Exception):
    """Error: another process holds the lease and is alive."""


class Lease:
    """A lease that this process holds. A thread writes its heartbeats until it is released."""

    def __init__(self, file: Path, holder: Holder):
        self._file, self.holder, self._over = file, holder, threading.Event()
        self._lost = False
        self._unknown_since: float | None = None
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        return number(self._file)

    @property
    def lost(self) -> bool:
        """Whether another process has probably taken over, which removes this file.

        The test is cheap enough for every step. `check` is certain.
        """
        try:
            self._file.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:  # a disk that does not respond for a moment
            pass
        return self._lost

    def check(self) -> None:
        """Raise LeaseLost if another process holds the lease, or may hold it.

        It may hold it if the disk has only given errors for SILENCE seconds.
        """
        try:
            self._confirm()
            self._unknown_since = None
        except OSError as error:  # such as one ESTALE of a network disk
            now = time.monotonic()
            self._unknown_since = since = self._unknown_since or now
            if now - since > SILENCE:
                what = f"cannot be read for {SILENCE:.0f} s: {error.strerror}"
                raise LeaseLost(f"{self._file}: {what}; another process may have taken over") from None

    def _confirm(self) -> None:
        """Raise LeaseLost if another process holds the lease, OSError if the disk cannot be read."""
        found, newest = read(self._file), _newest(*split_name(self._file))
        if newest is None and is_gone(self._file.parent):
            raise LeaseLost(f"{self._file.parent} is gone: deleted, or moved away")
        if found is None or found.nonce != self.holder.nonce or newest != self._file:
            raise LeaseLost(f"{self._file}: another process has taken over")

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *failure: object) -> None:
        self.release()

    def release(self) -> None:
        self._over.set()
        self._thread.join()
        with suppress(LeaseLost, OSError):
            self._confirm()
            self._file.unlink()

    def _beat(self) -> None:
        count = 0
        while not self._over.wait(BEAT):
            count += 1
            with suppress(OSError):  # a disk that hangs for a moment is no reason to give up
                try:
                    self.check()
                except LeaseLost:
                    self._lost = True
                    return
                line = Holder(**{**vars(self.holder), "beat": count}).line()
                with self._file.open("r+b") as file:
                    file.write(line)


def acquire(folder: Path, name: str, done: Path, what: str) -> Lease | None:
    """Wait for the lease of this name in a folder. Returns None as soon as `done` exists.

    `what`: the holder's task, for the message to the waiting user. Raises OSError if the folder cannot be read for
    SILENCE seconds.
    """
    newest, told = _NewestLease(folder, name), None
    while not done.exists():
        if newest.update():
            holder = newest.holder
            if newest.file is None or newest.silence > SILENCE or (holder is not None and holder.dead()):
                lease = _take(newest.next_file())
                if lease is not None and not done.exists():
                    return lease
                if lease is not None:  # the previous holder has just finished
                    lease.release()
            elif holder is not None and told != holder.nonce:
                told = holder.nonce
                _log.info("waiting for %s to %s", holder, what)
        time.sleep(0.2)
    return None


def claim(folder: Path, name: str) -> Lease:
    """Take the lease of this name in a folder. Waits up to SILENCE seconds for a live holder to release it.

    A holder is replaced if it is dead, sends no heartbeats, or is an earlier start of this job. Raises LeaseHeld if it
    keeps the lease, LeaseLost if it is a later start of this job, OSError if the folder cannot be read for SILENCE
    seconds.
    """
    mine, newest, begun = Holder.this(), _NewestLease(folder, name), time.monotonic()
    while True:
        if newest.update():
            holder = newest.holder
            if holder is not None and holder.job == mine.job != "" and holder.start > mine.start:
                raise LeaseLost(f"{newest.file}: a later start of the job, {holder}, has taken over")
            gone = holder is not None and (holder.dead() or mine.replaces(holder))
            if newest.file is None or gone or newest.silence > SILENCE:
                if lease := _take(newest.next_file()):
                    return lease
            elif holder is not None and time.monotonic() - begun > SILENCE and newest.silence < 2 * BEAT:
                raise LeaseHeld(str(holder))
        else:
            begun = time.monotonic()
        time.sleep(0.2)


class _NewestLease:
    """The newest lease of a name, as observed by a process that waits for it.

    `file`, `holder`: None if there is no lease. `silence`: seconds for which it has been read without a change.
    """

    def __init__(self, folder: Path, name: str):
        self._folder, self._name = folder, name
        self.file: Path | None = None
        self.holder: Holder | None = None
        self._changed = self._read = time.monotonic()
        self.silence = 0.0

    def update(self) -> bool:
        """Read the lease again. Returns False if the disk cannot be read; the silence then starts again from 0.

        Raises OSError if the disk cannot be read for SILENCE seconds.
        """
        now = time.monotonic()
        try:
            file = _newest(self._folder, self._name)
            holder = None if file is None else read(file)
        except OSError:
            if now - self._read > SILENCE:
                raise
            self._changed = now
            return False
        if (file, holder) != (self.file, self.holder):
            self.file, self.holder, self._changed = file, holder, now
        self._read, self.silence = now, now - self._changed
        return True

    def next_file(self) -> Path:
        return self._folder / f"{self._name}.lease-{(number(self.file) if self.file else 0) + 1:06}"


def sweep(folder: Path, name: str) -> None:
    """Remove the files of former holders. The folder `done` of `acquire` has to exist."""
    for file in folder.glob(f"{name}.lease-*"):
        with suppress(OSError):
            file.unlink()


def _take(file: Path) -> Lease | None:
    holder = Holder.this()
    try:
        with file.open("xb") as new:
            new.write(holder.line())
    except FileExistsError:
        return None
    except OSError:  # a full disk: others would wait for an empty file
        file.unlink(missing_ok=True)
        raise
    for older in file.parent.glob(f"{split_name(file)[1]}.lease-*"):
        if number(older) < number(file):  # an earlier holder must not hold it again when this one is released
            older.unlink(missing_ok=True)
    return Lease(file, holder)
