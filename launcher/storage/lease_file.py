"""Files of leases: `<name>.lease-<number>`, each with its holder. The file with the highest number is valid."""

import errno
import json
import os
import re
import socket
import stat
import sys
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

_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.ENOTDIR)
"""Numbers of errors that show that the name belongs to no regular file. After other errors, nothing is known."""


@dataclass(frozen=True)
class Holder:
    """The holder of a lease, as its file describes it.

    `here`: machine and process namespace of `pid`. `born`: start time of the process. `nonce`: unique for each holder.
    `job`, `start`: job of the scheduler and number of its start. `beat`: count of heartbeats.
    """

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
        return cls(socket.gethostname(), process_namespace(), pid, _born(pid), uuid.uuid4().hex, job, start)

    def line(self) -> bytes:
        """Return the content of the file. Its length is constant, so that a heartbeat needs no space on a full disk."""
        return json.dumps({**vars(self), "beat": f"{self.beat:012}"}).encode()

    def replaces(self, other: "Holder") -> bool:
        """Return whether this holder may take over from a live `other`.

        It may if it is a later start of the same job, a later attempt of the same start, or the same process. The other
        one may still run on a node that its scheduler has lost.
        """
        if (self.here, self.pid, self.born) == (other.here, other.pid, other.born):
            return True
        return self.job != "" and self.job == other.job and self.start >= other.start

    def local(self) -> bool:
        """Return whether the holder's process is visible from this process."""
        return self.here == process_namespace()

    def dead(self) -> bool:
        """Return whether the holder's process has certainly ended; False for a process on another machine."""
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


def read(file: Path) -> Holder | None:
    """Return the holder in the file of a lease; None: the file does not exist or is incomplete.

    Raises OSError if the file cannot be read at the moment.
    """
    try:
        line = strict_json.read(file, _Line, "")
    except DamagedFile as damaged:
        if isinstance(damaged.__cause__, OSError) and damaged.__cause__.errno not in _NO_FILE:
            raise damaged.__cause__ from None
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
    """Return the newest lease of this name in a folder, and its holder, dead or alive; None: no lease.

    Raises OSError.
    """
    file = newest(folder, name)
    holder = None if file is None else read(file)
    return None if file is None or holder is None else (file, holder)


def newest(folder: Path, name: str) -> Path | None:
    """Return the lease with the highest number; None: no lease.

    Raises OSError if the folder cannot be read at the moment. The glob of pathlib would then find nothing.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208 (names alone)
    except (FileNotFoundError, NotADirectoryError):
        return None
    lease = re.compile(rf"{re.escape(name)}\.lease-\d+")
    return max((folder / found for found in names if lease.fullmatch(found)), key=number, default=None)


def is_gone(folder: Path) -> bool:
    """Return whether there is no such folder. Raises OSError if this is not known."""
    try:
        return not stat.S_ISDIR(folder.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True


def split_name(file: Path) -> tuple[Path, str]:
    return file.parent, file.name.rpartition(".lease-")[0]


def number(file: Path) -> int:
    return int(file.name.rpartition("-")[2])


def _born(pid: int) -> float:
    """Return the start time of a process, in seconds since the epoch; on Linux in ticks since the boot of the machine.

    A change of the clock does not affect the ticks.
    """
    if sys.platform == "linux":
        return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return psutil.Process(pid).create_time()


@cache
def process_namespace() -> str:
    """Return a text that identifies the host, its boot and the PID namespace.

    A process id is unique only within these: a container has its own namespace.
    """
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return " ".join(parts)
