"""The file STOP of a run folder, which asks a run to save and leave: `touch runs/NAME/STOP`, from any machine.

It stays there when the run has left, so that a scheduler's next start leaves too. A start by a person removes it.
"""

import os
from collections.abc import Mapping
from contextlib import suppress

from launcher.config import env_vars, paths
from launcher.storage.run_dir import RunDir

Identity = tuple[int, int]
"""Inode and time of change, in nanoseconds: a file that was created again has another one."""


def write(run: RunDir) -> None:
    """Ask a run to save and leave. Raises OSError."""
    (run.path / paths.STOP).touch()


def exists(run: RunDir) -> bool:
    """Return whether a stop is asked for.

    The folder is listed, because a network disk may remember for a minute that a name did not exist.
    """
    with suppress(OSError):
        return any(entry.name == paths.STOP for entry in run.path.iterdir())
    return False


def left_before(run: RunDir, environment: Mapping[str, str] = os.environ) -> Identity | None:
    """Return the file that an earlier stop has left, at the beginning of a start by a person; None: there is none, or
    nobody has made this start, which then heeds the file."""
    if _starts_by_itself(environment):
        return None
    return _identity(run)


def remove(run: RunDir, left: Identity | None) -> str | None:
    """Remove the file that was there before this start. Returns a note; None: there was none, or it is a newer one."""
    if left is None or _identity(run) != left:
        return None
    with suppress(OSError):
        (run.path / paths.STOP).unlink()
        return f"{run.path / paths.STOP} was left by an earlier stop, and is removed"
    return None


def _identity(run: RunDir) -> Identity | None:
    with suppress(OSError):
        found = (run.path / paths.STOP).stat()
        return found.st_ino, found.st_mtime_ns
    return None


def _starts_by_itself(environment: Mapping[str, str]) -> bool:
    """Return whether a launcher, an agent or a scheduler has made this start, and no person."""
    counts = [environment.get(name, "0") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")]
    return (
        env_vars.JOB in environment
        or env_vars.LAUNCHER_PID in environment
        or any(count.isdecimal() and int(count) > 0 for count in counts)
    )
