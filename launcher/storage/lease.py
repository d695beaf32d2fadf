"""Leases: an exclusive right among processes on any number of machines that share a folder.

The holder writes heartbeats into a file. A holder without a heartbeat for a while is taken for dead, and another
process takes over by creating the file with the next number, which only one process can. A holder that was wrongly
taken for dead finds the newer file. Heartbeats are counters, not times, because the clocks of machines may differ. File
locks do not work here: on a shared disk they outlive a lost machine, or have no effect.
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
    """Another process has taken over: this one sent no heartbeat for too long, its file or folder is gone, or its job
    has a later start."""


class LeaseHeld(Exception):
    """Another process holds the lease and is alive."""


@dataclass(frozen=True)
class Holder:
    """The holder of a lease, as its file describes it. `here`: the machine and process namespace of `pid`; `born`: the
    start time of the process; `nonce`: unique for each holder; `job`, `start`: the scheduler's job and the number of
    its start; `beat`: the count of heartbeats."""

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
        """The content of the file. Its length is constant, so that a heartbeat needs no space on a full disk."""
        return json.dumps({**vars(self), "beat": f"{self.beat:012}"}).encode()

    def replaces(self, other: "Holder") -> bool:
        """Whether this holder may take over from a live `other`: it is a later start of the same job, a later attempt
        of the same start, or the same process. The other one may still run on a node that its scheduler has lost."""
        if (self.here, self.pid, self.born) == (other.here, other.pid, other.born):
            return True
        return self.job != "" and self.job == other.job and self.start >= other.start

    def local(self) -> bool:
        """Whether its process is visible from this one."""
        return self.here == _namespace()

    def dead(self) -> bool:
        """Whether its process has certainly ended. False for a process on another machine."""
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
    """A lease that this process holds. A thread writes its heartbeats until it is released."""

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
        """Whether another process has probably taken over: it removes this file. Cheap enough for every step; `check`
        is certain."""
        with suppress(OSError):  # a disk that does not respond for a moment
            return self._lost or not self._file.exists()
        return self._lost

    def check(self) -> None:
        """Raises LeaseLost where another process holds it."""
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
    """Wait for the lease of this name in a folder. Returns None as soon as `done` exists. `what`: the holder's task,
    for the message to the waiting user."""
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
            if lease is not None:  # the previous holder has finished meanwhile
                lease.release()
        elif holder is not None and told != holder.nonce:
            told = holder.nonce
            print(f"waiting for {holder} to {what}", file=sys.stderr, flush=True)
        time.sleep(0.2)
    return None


def claim(folder: Path, name: str) -> Lease:
    """Take the lease of this name in a folder from a holder that is dead, sends no heartbeats, or is an earlier start
    of this job. Waits up to SILENCE for a live holder to release it. Raises LeaseHeld where it does not, LeaseLost
    where it is a later start of this job."""
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
    """Remove the files of former holders, after `done` exists."""
    for file in folder.glob(f"{name}.lease-*"):
        with suppress(OSError):
            file.unlink()


def read(file: Path) -> Holder | None:
    """Read the holder from the file of a lease; None where it does not exist or is incomplete."""
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
    """The newest lease of this name in a folder, and its holder, dead or alive."""
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
    except OSError:  # a full disk: others would wait for an empty file
        file.unlink(missing_ok=True)
        raise
    for older in file.parent.glob(f"{_named(file)[1]}.lease-*"):
        if _number(older) < _number(file):  # an earlier holder must not hold it again when this one is released
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
    """The start time of a process; on Linux in ticks since the boot of the machine, which no clock change affects."""
    if sys.platform == "linux":
        return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return psutil.Process(pid).create_time()


@cache
def _namespace() -> str:
    """Identify the host, its boot and the PID namespace. A process id is unique only within these: a container has its
    own."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return " ".join(parts)
