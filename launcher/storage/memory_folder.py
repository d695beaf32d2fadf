"""The folder in the memory of a node that holds copies of a run's state: a folder of a tmpfs such as /dev/shm.

It outlives the ranks. Its name contains a hash of the run folder's path and of a random id in the run folder: another
user cannot guess it, and a deleted run is not mistaken for a new one with the same name. The file of a rank has two
slots (see launcher.storage.memory_copy_format).
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from launcher.config import env_vars, paths, strict_json
from launcher.config.atomic_files import allocated_bytes, write
from launcher.config.format import human
from launcher.config.strict_json import DamagedFile, Stored
from launcher.storage.memory_copy_format import HINT, Mark, Slot, stem
from launcher.storage.run_dir import RunDir

SLOTS = (0, 1)
SHARE = 0.5
"""Maximum share of a node's memory that copies may take."""
_MARK = re.compile(r"rank-[0-9]{5,}\.[01]\.json")
_OWNER = "owner.json"
_LOCK_SECONDS = 5.0


class UnusableFolder(Exception):
    """Error: a folder in memory cannot be used. The message has the reason and an advice."""


class _Owner(Stored):
    """The run that a folder belongs to. `id`: content of the run's memory.id."""

    run: str
    id: Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class MemoryFolder:
    """The folder of one run on this node. `run`: the run folder; `id`: content of its memory.id."""

    run: Path
    id: str

    @property
    def path(self) -> Path:
        digest = hashlib.blake2b(f"{self.run.resolve()}\n{self.id}".encode(), digest_size=10).hexdigest()
        return root() / f"launcher-{os.getuid()}-{digest}"

    def create(self) -> None:
        """Create the folder for this user alone, unless it exists. Raises UnusableFolder."""
        try:
            _check_parent(root())
            self.path.mkdir(mode=0o700, exist_ok=True)
            found = self.path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise UnusableFolder(f"{self.path} is no folder of this user alone (remove it)")
            write(self.path / _OWNER, json.dumps({"run": str(self.run.resolve()), "id": self.id}), flushed=False)
        except OSError as error:
            what = f"{self.path} cannot be created: {error.strerror or error}"
            raise UnusableFolder(f"{what} ({env_vars.MEMORY} names another tmpfs)") from None

    def node(self) -> str:
        """Return a text that is the same for the processes that see this very folder."""
        found, boot = self.path.stat(), ""
        with suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{found.st_dev}:{found.st_ino}"

    def lock(self, rank: int) -> int:
        """Lock the files of a rank for as long as this process lives. Returns the handle of the lock, which has to stay
        open. Raises UnusableFolder if another process has the lock."""
        handle = os.open(self.path / f"{stem(rank)}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, no child of a dead rank keeps it
                return handle
            except OSError:
                if time.monotonic() > deadline:
                    os.close(handle)
                    what = f"rank {rank} of another start still uses {self.path}"
                    raise UnusableFolder(f"{what} (end that process)") from None
            time.sleep(0.1)

    def slot(self, rank: int, number: int) -> Slot:
        """Return a slot for the file of a rank. `number`: 0 or 1."""
        name = f"{stem(rank)}.{number}"
        return Slot(self.path / f"{name}.safetensors", self.path / f"{name}.json")

    def slot_but(self, rank: int, kept: int | None) -> Slot:
        """Return the slot to overwrite next: not the one that holds step `kept`."""
        first, second = (self.slot(rank, number) for number in SLOTS)
        mark = first.read() if kept is not None else None
        return second if mark is not None and mark.step == kept else first

    def marks(self, layout: str) -> list[tuple[Slot, Mark]]:
        """Return the complete slots of this layout, in the order of ranks."""
        found = list[tuple[Slot, Mark]]()
        for file in sorted(self.path.iterdir()):
            if _MARK.fullmatch(file.name):
                slot = Slot(file.with_suffix(".safetensors"), file)
                mark = slot.read()
                if mark is not None and mark.layout == layout:
                    found.append((slot, mark))
        return found

    def keep_only(self, step: int | None) -> None:
        """Remove all slots but the complete ones of a step, and files that a killed process left. None: remove all."""
        for file in self.path.iterdir():
            if file.suffix in (".json", ".partial") and file.name != _OWNER:
                mark = Slot(file.with_suffix(".safetensors"), file).read() if step is not None else None
                if mark is None or mark.step != step:
                    file.unlink(missing_ok=True)
        for data in self.path.glob("*.safetensors"):
            if not data.with_suffix(".json").exists():
                data.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder, which gives its memory back."""
        shutil.rmtree(self.path, ignore_errors=True)


def root() -> Path:
    """Return the tmpfs of the copies: $LAUNCHER_MEMORY, else /dev/shm."""
    return Path(os.environ.get(env_vars.MEMORY) or "/dev/shm")


def run_id(folder: RunDir, create: bool) -> str | None:
    """Return the id of a run, as the rank with the right to write finds it. `create`: write a new one if there is none,
    or if it is damaged. None: there is none."""
    file = folder.path / paths.MEMORY_ID
    with suppress(DamagedFile, UnicodeDecodeError):
        with strict_json.opened(file, HINT) as data:
            text = data.read(64).decode()
        if re.fullmatch(r"[0-9a-f]{32}\n", text):
            return text.strip()
    if not create:
        return None
    new = secrets.token_hex(16)
    write(file, f"{new}\n")
    return new


def sweep() -> None:
    """Remove this user's folders of runs that are deleted, or were made anew."""
    for folder in root().glob(f"launcher-{os.getuid()}-*"):
        with suppress(OSError, DamagedFile):
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            owner = strict_json.read(folder / _OWNER, _Owner, HINT)
            if run_id(RunDir(Path(owner.run)), create=False) != owner.id:
                shutil.rmtree(folder, ignore_errors=True)


def existing(run: RunDir) -> MemoryFolder | None:
    """Return the folder of a run on this machine; None: there is none."""
    id = run_id(run, create=False)
    folder = MemoryFolder(run.path, id) if id else None
    return folder if folder is not None and folder.path.is_dir() else None


def newest_step(run: RunDir) -> int | None:
    """Return the step of the newest copy of a run that is whole on this machine, without a check of its content; None:
    there is none. A start verifies it, and may find parts of others on other machines."""
    folder, pieces, totals = existing(run), dict[tuple[str, int], set[int]](), dict[tuple[str, int], int]()
    with suppress(OSError):
        for file in folder.path.iterdir() if folder else ():
            mark = Slot(file.with_suffix(".safetensors"), file).read() if _MARK.fullmatch(file.name) else None
            if mark is not None:
                pieces.setdefault((mark.layout, mark.step), set()).update(mark.pieces)
                totals[mark.layout, mark.step] = mark.total
    return max((copy[1] for copy, found in pieces.items() if len(found) == totals[copy]), default=None)


def used_by(run: RunDir) -> int:
    """Return the bytes of this machine's memory that the copies of a run occupy now."""
    folder = existing(run)
    return allocated_bytes(folder.path) if folder else 0


def misfit(needed: int, free: int, memory: int) -> str:
    """Return why copies do not fit into the memory of a node, with an advice; empty: they fit. `needed`: bytes of all
    slots; `free`: bytes of the tmpfs; `memory`: bytes of the node."""
    advice = "leave checkpoint.memory out, or use a strategy that shards more"
    if needed > free:
        what = f"copies take {human(needed)} of each node, {human(free)} are free at {root()}"
        return f"{what} (a larger one, such as docker run --shm-size, or {env_vars.MEMORY}; or {advice})"
    if needed > SHARE * memory:
        what = f"copies take {human(needed)} of each node, more than {SHARE:.0%} of its {human(memory)}"
        return f"{what} ({advice})"
    return ""


def _check_parent(folder: Path) -> None:
    """Raise UnusableFolder if other users can replace what is in the folder."""
    mode = folder.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
        raise UnusableFolder(f"other users can replace what is in {folder} ({env_vars.MEMORY} names another tmpfs)")
