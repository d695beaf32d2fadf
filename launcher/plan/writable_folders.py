"""Test the folders and semaphores that a command needs, before anything starts.

Each function returns a line for each that cannot be used. A file is created and removed, because permissions do not
suffice: a file system may be mounted read-only, a quota may be exhausted, and even root may be refused.
"""

import multiprocessing
import os
import tempfile
from pathlib import Path

from launcher.config import paths
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.plan import topology
from launcher.storage import disk_full
from launcher.storage.run_dir import RunDir

_OF_A_RANK = 2
"""Semaphores between the launcher and a rank."""
_OF_A_LOADER, _OF_A_WORKER = 8, 3
"""Semaphores of a rank's data loader, and of each of its processes."""


def cache() -> list[str]:
    """Return problems of the cache folder."""
    try:
        return unusable(paths.cache(), "the cache", "set LAUNCHER_CACHE to another folder")
    except UserError as error:
        return [str(problem) for problem in error.problems]


def run(folder: RunDir) -> list[str]:
    """Return problems of a run folder and of the folders in it."""
    what, advice = f"the run folder {folder.path}", "repair that, or start the run in another folder"
    lines = [unusable(place, what, advice) for place in (folder.path, folder.checkpoints, folder.logs)]
    return list(dict.fromkeys(line for of_place in lines for line in of_place))


def temporary() -> list[str]:
    """Return problems of the folder for temporary files that the environment names.

    If that cannot be used, Python silently uses another one.
    """
    requested = os.environ.get("TMPDIR")
    if requested:
        if not os.path.lexists(requested):
            return [f"TMPDIR: {requested} does not exist (create it, or set TMPDIR to another folder)"]
        return unusable(Path(requested), "TMPDIR", "set TMPDIR to another folder")
    try:
        tempfile.gettempdir()
    except OSError:
        return ["temporary files: neither /tmp nor /var/tmp can be written (set TMPDIR to a folder that can)"]
    return []


def ranks(recipe: Recipe, cluster: Cluster, count: int | None) -> list[str]:
    """Return problems of ranks on this machine. `count`: requested number of ranks."""
    if not cluster.scheduler.on_this_machine:
        return []
    world = topology.world(cluster, count)
    workers = recipe.train.workers if recipe.train.workers != "auto" else 0 if world.devices.kind == "cpu" else 2
    return [*temporary(), *semaphores(world.per_node, workers)]


def semaphores(ranks: int, workers: int) -> list[str]:
    """Return problems of the semaphores of a start. `workers`: loader processes of each rank.

    Linux keeps a semaphore in a page of /dev/shm.
    """
    count = ranks * (_OF_A_RANK + (_OF_A_LOADER + _OF_A_WORKER * workers if workers else 0))
    context, created = multiprocessing.get_context("fork"), []  # fork leaves no names behind
    try:
        for _ in range(count):
            created.append(context.Lock())
    except (OSError, ImportError) as error:
        why = getattr(error, "strerror", None) or str(error)
        advice = "mount a tmpfs there; for a container: --shm-size=1g, or --ipc=host"
        return [f"/dev/shm: semaphore {len(created) + 1} of the {count} needed cannot be created: {why} ({advice})"]
    return []


def unusable(folder: Path, what: str, advice: str) -> list[str]:
    """Return a line if no file can be created in `folder`, or in its nearest existing parent; empty: a file can."""
    existing = folder
    while not os.path.lexists(existing):
        existing = existing.parent
    try:
        if existing.is_dir():
            with tempfile.TemporaryFile(dir=existing) as file:
                file.write(b"x")
            return []
        if existing.is_symlink() and not existing.exists():
            reason = f"it is a link to {existing.readlink()}, which does not exist"
        else:
            reason = "it is a file, not a folder"
    except OSError as error:
        if (number := disk_full.number(error)) is not None:
            return [f"{what}: {disk_full.sentence(existing, number)}"]
        reason = str(error.strerror)
    return [f"{what}: {existing} cannot be written: {reason} ({advice})"]
