"""Map a function over many items in processes of this machine, with a progress bar."""

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from launcher.config.errors import UserError
from launcher.distributed import signals
from launcher.plan import topology, writable_folders
from launcher.storage.lease import Lease

SMALL = 4 * 2**20
"""Total bytes of items below which no further process is started, since that would take longer."""
_LOG_INTERVAL = 30.0
"""Seconds between two lines of progress without a terminal."""

_log = logging.getLogger(__name__)


class WorkItem(Protocol):
    @property
    def size(self) -> int:
        """Approximate bytes, for the progress bar, and to start with the largest item."""


P = TypeVar("P", bound=WorkItem)


def run(function: Callable[[P], object], items: Sequence[P], what: str, lease: Lease, processes: int | None) -> None:
    """Call a function for each item, in at most `processes` processes (None: one per processor).

    The function is defined at the top level of a module, and writes its result to a file. Raises what the function
    raises, and lease.LeaseLost.
    """
    count = min(processes or topology.cores(), len(items))
    if sum(item.size for item in items) < SMALL:
        count = 1
    with _progress(what, sum(item.size for item in items)) as progress:
        if count <= 1:
            for item in items:
                function(item)
                progress(item.size)
                lease.check()
        else:
            _run_in_processes(function, items, count, progress, lease)


def _run_in_processes(
    function: Callable[[P], object], items: Sequence[P], count: int, progress: Callable[[int], None], lease: Lease
) -> None:
    if wrong := writable_folders.semaphores(count, 0):
        raise UserError(wrong)
    largest = sorted(items, key=lambda item: -item.size)
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # a fork would lose the threads of this process
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(os.getpid(),))
    try:
        with signals.blocked_in_children():
            waiting: dict[Future[object], int] = {pool.submit(function, item): item.size for item in largest}
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
    except BaseException:  # finished items have left their files: do not wait for the others
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(started_by: int) -> None:
    """Initialise a process: it ends with the process that started it, and Ctrl-C ends it without a traceback."""
    signals.signal_on_parent_death(signal.SIGKILL)
    if os.getppid() != started_by:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.SIGNALS)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that adds bytes to the progress: a bar on a terminal, else a line now and then."""
    console = Console(file=sys.stderr)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda size: bar.advance(task, size)
        return
    done, logged = 0, time.monotonic()

    def advance(size: int) -> None:
        nonlocal done, logged
        done += size
        if time.monotonic() - logged > _LOG_INTERVAL:
            logged = time.monotonic()
            _log.info("%s: %.0f%% of %s MiB", what, 100 * done / max(1, total), f"{total / 2**20:,.0f}")

    yield advance
