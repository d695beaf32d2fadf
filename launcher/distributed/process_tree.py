"""The processes that this one has started, and all that those have started."""

import time
from contextlib import suppress

import psutil

_SECONDS_TO_DIE = 5.0


def end() -> None:
    """Kill them. Ranks that torchrun starts have a session each, and a rank's own workers outlive it for seconds: no
    group holds all of them."""
    family = set[psutil.Process]()
    while new := _living() - family:
        family |= new
        for process in new:  # what stands still starts nothing more
            with suppress(psutil.Error):
                process.suspend()
    for process in family:
        with suppress(psutil.Error):
            process.kill()
    end = time.monotonic() + _SECONDS_TO_DIE
    while any(map(_lives, family)) and time.monotonic() < end:
        time.sleep(0.01)


def _living() -> set[psutil.Process]:
    """Without the helper of multiprocessing, which cleans up after all others, and ends by itself."""
    return {process for process in psutil.Process().children(recursive=True) if _lives(process)}


def _lives(process: psutil.Process) -> bool:
    """Whoever should bury the dead may be busy, or dead itself."""
    with suppress(psutil.Error):
        helps = any("multiprocessing.resource_tracker" in word for word in process.cmdline())
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE and not helps
    return False
