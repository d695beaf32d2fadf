"""One function over many pieces of work, in processes of this machine, with a progress bar."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from launcher.config.errors import UserError
from launcher.distributed import signals
from launcher.plan import topology, writable_folders
from launcher.storage.lease import Lease

SMALL = 4 * 2**20
"""Bytes of work that are not worth the start of another process."""
_QUIET = 30.0
"""Seconds between two lines of progress where there is no terminal."""


class WorkItem(Protocol):
    @property
    def size(self) -> int:
        """Bytes, about: to show progress, and to start the largest first."""


P = TypeVar("P", bound=WorkItem)


def run(function: Callable[[P], Any], pieces: Sequence[P], what: str, lease: Lease, most: int | None) -> None:
    """Call `function` for each piece, in up to `most` processes (None: as many as there are processors). It has to be a
    function of a module, and leave its result in a file. Raises what it raises, and lease.LeaseLost."""
    count = min(most or topology.cores(), len(pieces))
    if sum(piece.size for piece in pieces) < SMALL:
        count = 1
    with _progress(what, sum(piece.size for piece in pieces)) as progress:
        if count <= 1:
            for piece in pieces:
                function(piece)
                progress(piece.size)
                lease.check()
        else:
            _spread(function, pieces, count, progress, lease)


def _spread(function: Callable[[P], Any], pieces: Sequence[P], count: int, progress: Any, lease: Lease) -> None:
    if wrong := writable_folders.semaphores(count, 0):
        raise UserError(wrong)
    largest = sorted(pieces, key=lambda piece: -piece.size)
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # this process has threads, which a fork would cut off
    options: dict[str, Any] = {"mp_context": context, "initializer": _begin, "initargs": (os.getpid(),)}
    pool = ProcessPoolExecutor(count, **options)
    try:
        with signals.blocked_in_children():
            waiting: dict[Future[Any], int] = {pool.submit(function, piece): piece.size for piece in largest}
        while waiting:
            done, _ = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                progress(waiting.pop(future))
            lease.check()
    except BrokenProcessPool:
        raise RuntimeError(
            "a process that prepared data was killed (out of memory?); the same command goes on where it was, and "
            "--processes 1 takes the least memory"
        ) from None
    except BaseException:  # what is finished outlives this: nobody waits for the rest
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(started_by: int) -> None:
    """In each process: it ends with the one that started it, and is ended by Ctrl-C without a word."""
    signals.signal_on_parent_death(signal.SIGKILL)
    if os.getppid() != started_by:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.SIGNALS)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; elsewhere a line now and then."""
    console = Console(file=sys.stderr)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda size: bar.advance(task, size)
        return
    done, told = 0, time.monotonic()

    def tell(size: int) -> None:
        nonlocal done, told
        done += size
        if time.monotonic() - told > _QUIET:
            told = time.monotonic()
            print(f"{what}: {done / max(1, total):.0%} of {total / 2**20:,.0f} MiB", file=sys.stderr, flush=True)

    yield tell
