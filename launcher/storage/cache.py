"""A cache of folders named by their content. One process makes a folder, the others wait; it appears whole or not
at all. What a killed one had finished, in parts, is gone on with by the next."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher.config.atomic_files import flush_tree
from launcher.config.errors import UserError
from launcher.storage import cache_root, lease


@dataclass(frozen=True)
class FolderCreation:
    """A folder in the making. `work`: what outlives a kill, for the next to go on with; `whole`: what will get the
    folder's name."""

    work: Path
    whole: Path
    lease: lease.Lease

    def forget(self) -> None:
        """Leave nothing to go on with. Raises lease.LeaseLost where it is another's by now."""
        self.lease.check()
        shutil.rmtree(self.work, ignore_errors=True)


def path(name: str) -> Path:
    """Where the folder of this name is, or will be."""
    return cache_root.prepared(name)


@contextmanager
def making(name: str) -> Iterator[FolderCreation | None]:
    """None where the folder is there, be it that another process made it meanwhile; else a folder to make, which gets
    its name when the block ends without error. Raises lease.LeaseLost where this process was taken to be dead."""
    final = path(name)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"{final.parent}: the cache cannot be made: {error.strerror} (set LAUNCHER_CACHE to another folder)"
        raise UserError(what) from None
    held = lease.acquire(final.parent, f".{name}", done=final, what="prepare the data")
    if held is None:
        yield None
        return
    work = final.with_name(f".{name}.work")
    whole = final.with_name(f".{name}.whole-{held.number:06}")
    try:
        work.mkdir(exist_ok=True)
        for half in [path for path in work.glob(".*") if path.is_file()]:  # of one that was killed: only in the way
            half.unlink(missing_ok=True)
        shutil.rmtree(whole, ignore_errors=True)  # of an earlier one with this number, which is dead
        whole.mkdir()
        yield FolderCreation(work, whole, held)
        flush_tree(whole)
        held.check()
        whole.rename(final)
        sweep(name)
    except OSError:
        if not final.is_dir():  # else another, which took over, was faster and has swept up
            held.check()  # or it has taken over, and what is missing here is its doing
            raise
    finally:
        shutil.rmtree(whole, ignore_errors=True)
        held.release()


def sweep(name: str) -> None:
    """Take away what is left of all attempts, once the folder is there: not before, since one that is taken to be dead
    may not be, and may yet give its folder the name."""
    final = path(name)
    for old in final.parent.glob(f".{final.name}.whole-*"):
        shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(final.with_name(f".{final.name}.work"), ignore_errors=True)
    lease.sweep(final.parent, f".{final.name}")
