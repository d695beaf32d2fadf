"""Helpers for tests of processes that are stopped, continued and killed."""

import time
from pathlib import Path


def until(true, *processes, seconds=60):
    """Wait until a condition returns a true value, and return it. Fails if all processes have ended."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it did not come true"
        assert not processes or any(process.poll() is None for process in processes), "all processes ended"
        time.sleep(0.01)
    return found


def said():
    """Return the standard errors of all processes."""
    return "".join(file.read_text() for file in Path().glob("stderr-*"))
