"""The folder that all nodes share: whether each sees what the others write, and how fast it is."""

import os
from collections.abc import Sequence
from pathlib import Path

from launcher.config.format import plural, some
from launcher.health.disks import SLOW, Written
from launcher.health.finding import Check, Finding

_CHECK = Check("disks", "shared folder")
_CURE = "start where all nodes have the same disk mounted (NFS, Lustre, ...) at the same path"


def shows(folder: Path, name: str) -> bool:
    """Return whether a folder lists a file. A network disk may remember that a name did not exist, but not a list."""
    try:
        return name in os.listdir(folder)  # noqa: PTH208 (names alone)
    except OSError:
        return False


def missing_nodes(folder: Path, missing: Sequence[str], seconds: float) -> list[Finding]:
    """Return the finding about nodes that have not written to the folder."""
    have = "has" if len(missing) == 1 else "have"
    what = f"{some(list(missing), 5)} {have} not shown up in {folder} in {seconds:.0f} s"
    return [_CHECK.failure(f"{what}: it is another disk there, or the checks did not start", _CURE)]


def unwritable(folder: Path, error: OSError) -> list[Finding]:
    """Return the finding about a folder in which nothing can be written."""
    return [_CHECK.failure(f"{folder} cannot be written to: {error.strerror}", _CURE)]


def findings(folder: Path, nodes: int, written: Written) -> list[Finding]:
    """Return the finding about a folder that all nodes see. `written`: a probe in it."""
    if written.problem:
        return [_CHECK.failure(f"{folder}: {written.problem}", _CURE)]
    what = f"{folder.parent}: {plural(nodes, 'node')} see it, renames are atomic, {written.speed / 1e6:,.0f} MB/s"
    if written.speed < SLOW:
        return [_CHECK.warning(what, "checkpoints will be slow: use a faster disk")]
    return [_CHECK.ok(what)]
