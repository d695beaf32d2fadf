"""The right to do something alone, among processes of any number of machines that share a folder.

The holder's heart beats into a file. One that has not beaten for a while is taken to be dead, and another takes over
by making the file of the next number, which only one can. Whoever was taken to be dead and was not finds a newer file,
and knows. Beats are counted, not dated: the clocks of machines need not agree. File locks are no help here: on a shared
disk they outlive a lost machine, or do nothing.
"""

import json
import os
import re
import socket
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import Field

from launcher.config import env_vars, strict_json
from launcher.config.strict_json import DamagedFile, Stored, Word

BEAT = 2.0
"""Seconds between two beats."""
SILENCE = 10.0
"""Seconds without a beat after which a holder is taken to be dead."""


class LeaseLost(Exception):
    """Another process has taken over: this one was silent for too long, its file or folder is gone, or a later start of
    its job is there."""


class LeaseHeld(Exception):
    """Another process holds it, and lives."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as its file says. `here`: the machine and process namespace that `pid` belongs to; `job`,
    `start`: of a scheduler's job, and which of its starts."""

    host: str
    here: str
    pid: int
    born: float
    nonce: str
    job: str = ""
    start: int = 0
    beat: int = 0

    @classmethod
    def this(cls) -> "Holder":
        pid, job = os.getpid(), os.environ.get(env_vars.JOB, "")
        start = int(os.environ.get(env_vars.START) or 0)
        return cls(socket.gethostname(), _namespace(), pid, _born(pid), uuid.uuid4().hex, job, start)

    def line(self) -> bytes:
        """As it stands in the file: as long at each beat, so that a beat needs no room on a full disk."""
        return json.dumps({**vars(self), "beat": f"{self.beat:012}"}).encode()

    def replaces(self, other: "Holder") -> bool:
        """Whether this is a later start of the same job, or a later attempt of the same start: the other may live on
        where nobody can end it, on a node that its scheduler has lost sight of. Or it is this very process."""
        if (self.here, self.pid, self.born) == (other.here, other.pid, other.born):
            return True
        return self.job != "" and self.job == other.job and self.start >= other.start

    def local(self) -> bool:
        """Whether its process is seen from here."""
        return self.here == _namespace()

    def dead(self) -> bool:
        """Whether it is seen from here that its process has ended; elsewhere only silence tells."""
        if not self.local():
            return False
        try:
            process = psutil.Process(self.pid)
            return process.status() == psutil.STATUS_ZOMBIE or _born(self.pid) != self.born
        except psutil.NoSuchProcess:
            return True
        except (psutil.Error, OSError):
            return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """A lease that is held, beating from a thread of its own until it is released."""

    def __init__(self, file: Path, holder: Holder):
        self._file, self.holder, self._over = file, holder, threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        return _number(self._file)

    @property
    def lost(self) -> bool:
        """Whether another has taken over, as far as one look at the file shows, which whoever takes over removes: cheap
        enough for every step. `check` is certain."""
        with suppress(OSError):  # a disk that does not answer for a moment
            return self._lost or not self._file.exists()
        return self._lost

    def check(self) -> None:
        """Raises LeaseLost where another holds it by now."""
        found = read(self._file)
        if found is None and not self._file.parent.is_dir():
            raise LeaseLost(f"{self._file.parent} is gone: deleted, or moved away")
        if found is None or found.nonce != self.holder.nonce or _newest(*_named(self._file)) != self._file:
            raise LeaseLost(f"{self._file}: another process has taken over")

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *failure: object) -> None:
        self.release()

    def release(self) -> None:
        self._over.set()
        self._thread.join()
        with suppress(LeaseLost, OSError):
            self.check()
            self._file.unlink()

    def _beat(self) -> None:
        count = 0
        while not self._over.wait(BEAT):
            count += 1
            with suppress(OSError):  # a disk that hangs for a moment: silence is what others judge by
                try:
                    self.check()
                except LeaseLost:
                    self._lost = True
                    return
                line = Holder(**{**vars(self.holder), "beat": count}).line()
                with self._file.open("r+b") as file:
                    file.write(line)


def acquire(folder: Path, name: str, done: Path, what: str) -> Lease | None:
    """The lease of this name in a folder, waited for; None as soon as `done` exists. `what`: what the holder does, told
    to whoever waits."""
    seen, since, told = None, time.monotonic(), None
    while not done.exists():
        newest = _newest(folder, name)
        holder = None if newest is None else read(newest)
        if (newest, holder) != seen:
            seen, since = (newest, holder), time.monotonic()
        silent = time.monotonic() - since > SILENCE
        if newest is None or silent or (holder is not None and holder.dead()):
            lease = _take(folder / f"{name}.lease-{(_number(newest) if newest else 0) + 1:06}")
            if lease is not None and not done.exists():
                return lease
            if lease is not None:  # the holder before has finished, and swept up, since we looked
                lease.release()
        elif holder is not None and told != holder.nonce:
            told = holder.nonce
            print(f"waiting for {holder} to {what}", file=sys.stderr, flush=True)
        time.sleep(0.2)
    return None


def claim(folder: Path, name: str) -> Lease:
    """The lease of this name in a folder: from whoever is dead, silent, or of an earlier start of this job. A holder
    that lives is given as long as silence would take to leave. Raises LeaseHeld where it stays, LeaseLost where it is
    of a later start of this job."""
    mine, seen, begun = Holder.this(), None, time.monotonic()
    since = begun
    while True:
        newest = _newest(folder, name)
        holder = None if newest is None else read(newest)
        if holder is not None and holder.job == mine.job != "" and holder.start > mine.start:
            raise LeaseLost(f"{newest}: a later start of the job, {holder}, has taken over")
        now = time.monotonic()
        if (newest, holder) != seen:
            seen, since = (newest, holder), now
        gone = holder is not None and (holder.dead() or mine.replaces(holder))
        if newest is None or gone or now - since > SILENCE:
            lease = _take(folder / f"{name}.lease-{(_number(newest) if newest else 0) + 1:06}")
            if lease is not None:
                return lease
        elif holder is not None and now - begun > SILENCE and now - since < 2 * BEAT:
            raise LeaseHeld(str(holder))
        time.sleep(0.2)


def sweep(folder: Path, name: str) -> None:
    """Take away the files of holders that are gone, after `done` has come to exist."""
    for file in folder.glob(f"{name}.lease-*"):
        with suppress(OSError):
            file.unlink()


def read(file: Path) -> Holder | None:
    """What a lease's file says; None where it is not there, or not written yet."""
    try:
        line = strict_json.read(file, _Line, "")
    except DamagedFile:
        return None
    return Holder(**{**dict(line), "beat": int(line.beat)})


class _Line(Stored):
    """The content of a lease's file (see Holder)."""

    host: Word
    here: str
    pid: Annotated[int, Field(gt=0, lt=1 << 31)]
    born: float
    nonce: str
    job: Word = ""
    start: int = 0
    beat: Annotated[str, Field(pattern=r"^[0-9]{1,20}$")]


def held(folder: Path, name: str) -> tuple[Path, Holder] | None:
    """The newest lease of this name in a folder, and who holds it, dead or alive."""
    file = _newest(folder, name)
    holder = None if file is None else read(file)
    return None if file is None or holder is None else (file, holder)


def _take(file: Path) -> Lease | None:
    holder = Holder.this()
    try:
        with file.open("xb") as new:
            new.write(holder.line())
    except FileExistsError:
        return None
    except OSError:  # a full disk: others would wait for nobody
        file.unlink(missing_ok=True)
        raise
    for older in file.parent.glob(f"{_named(file)[1]}.lease-*"):
        if _number(older) < _number(file):  # whoever held it is not to hold it again when this one is released
            older.unlink(missing_ok=True)
    return Lease(file, holder)


def _newest(folder: Path, name: str) -> Path | None:
    found = [file for file in folder.glob(f"{name}.lease-*") if re.fullmatch(r"\d+", file.name.rpartition("-")[2])]
    return max(found, key=_number, default=None)


def _named(file: Path) -> tuple[Path, str]:
    return file.parent, file.name.rpartition(".lease-")[0]


def _number(file: Path) -> int:
    return int(file.name.rpartition("-")[2])


def _born(pid: int) -> float:
    """When a process was started, on Linux by a clock that nobody sets: ticks since the machine was."""
    if sys.platform == "linux":
        return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return psutil.Process(pid).create_time()


@cache
def _namespace() -> str:
    """This boot of this machine, and its process namespace: a container has numbers of its own."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return " ".join(parts)
