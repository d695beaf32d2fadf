"""Kill the descendants of this process, whatever sessions and process groups they are in."""

import time
from contextlib import suppress

import psutil

_KILL_SECONDS = 5.0
"""Seconds to wait for killed processes to be gone."""


def kill_descendants() -> None:
    """Kill all processes that this one has started, and their descendants.

    No process group contains all of them: each rank of torchrun has its own session, and a rank's workers outlive it
    for seconds.
    """
    family = set[psutil.Process]()
    while new := _living_descendants() - family:
        family |= new
        for process in new:  # a suspended process starts nothing more
            with suppress(psutil.Error):
                process.suspend()
    for process in family:
        with suppress(psutil.Error):
            process.kill()
    end = time.monotonic() + _KILL_SECONDS
    while any(map(_is_alive, family)) and time.monotonic() < end:
        time.sleep(0.01)


def _living_descendants() -> set[psutil.Process]:
    return {process for process in psutil.Process().children(recursive=True) if _is_alive(process)}


def _is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs.

    A zombie does not: its parent may be busy or dead. Multiprocessing's resource tracker does not count, since it
    cleans up after all others and ends by itself.
    """
    with suppress(psutil.Error):
        is_tracker = any("multiprocessing.resource_tracker" in word for word in process.cmdline())
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE and not is_tracker
    return False
