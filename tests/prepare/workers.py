"""What tests of processes that are stopped, continued and killed share."""

import time
from pathlib import Path


def until(true, *processes, seconds=60):
    """Wait for something to come true, as long as a process that could do it lives. Returns what came."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it did not come true"
        assert not processes or any(process.poll() is None for process in processes), "all processes ended"
        time.sleep(0.01)
    return found


def said():
    """What all of them wrote to their errors."""
    return "".join(file.read_text() for file in Path().glob("stderr-*"))
