"""A cache of folders named by their content. A folder appears complete or not at all.

One process creates a folder while others wait. If it is killed, the next one continues with the finished parts.
"""

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
    """A folder that is being created.

    `work`: folder of finished parts, which stays if the process is killed. `whole`: folder that is renamed at the end.
    """

    work: Path
    whole: Path
    lease: lease.Lease

    def forget(self) -> None:
        """Delete the finished parts. Raises lease.LeaseLost if another process holds the lease."""
        self.lease.check()
        shutil.rmtree(self.work, ignore_errors=True)


@contextmanager
def making(name: str) -> Iterator[FolderCreation | None]:
    """Create a folder of the cache in the block. It gets its name when the block ends without an error.

    Yields None if the folder exists, also if another process has just created it. Raises lease.LeaseLost if another
    process has taken over because this one seemed dead, UserError if the cache cannot be created.
    """
    final = cache_root.prepared(name)
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
        for half in [path for path in work.glob(".*") if path.is_file()]:  # half-written by a killed process
            half.unlink(missing_ok=True)
        shutil.rmtree(whole, ignore_errors=True)  # left by a dead process with the same number
        whole.mkdir()
        yield FolderCreation(work, whole, held)
        flush_tree(whole)
        held.check()
        whole.rename(final)
        sweep(name)
    except OSError:
        if not final.is_dir():  # else another process took over and has finished
            held.check()  # raises LeaseLost if another process took over and removed files
            raise
    finally:
        shutil.rmtree(whole, ignore_errors=True)
        held.release()


def sweep(name: str) -> None:
    """Remove what all attempts have left, after the folder exists.

    Before that, a process that seemed dead may still be alive and finish the folder.
    """
    final = cache_root.prepared(name)
    for old in final.parent.glob(f".{final.name}.whole-*"):
        shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(final.with_name(f".{final.name}.work"), ignore_errors=True)
    lease.sweep(final.parent, f".{final.name}")
