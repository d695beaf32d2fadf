"""What a batch system cannot do with a recipe: found before anything is asked of it."""

import re

from launcher.config.cluster import Cluster, Slurm, time_limit
from launcher.config.errors import Problem
from launcher.config.recipe import Recipe, seconds

_OWN = (
    "array", "chdir", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "parsable", "signal", "test-only",
    "wrap", "a", "D", "N", "n", "o",
)  # fmt: skip
"""Options of sbatch that the batch script depends on."""


def problems(recipe: Recipe, cluster: Cluster) -> list[str | Problem]:
    """Mistakes that show where the profile's limits meet the recipe, or each other."""
    slurm = cluster.slurm
    if slurm is None:
        return []
    return [*_time(recipe, cluster, slurm), *_devices(cluster, slurm), *_options(cluster, slurm)]


def _time(recipe: Recipe, cluster: Cluster, slurm: Slurm) -> list[str | Problem]:
    if slurm.time is None or slurm.time.upper() in ("UNLIMITED", "INFINITE"):
        return []
    limit, every = time_limit(slurm.time), recipe.checkpoint.every
    if slurm.leave >= limit:
        what = f"the run would leave {slurm.leave} s before the end of {limit} s: no time is left to train"
        return [_of(cluster, "slurm.leave", f"{what} (cluster.slurm.leave={limit // 3}, or a longer slurm.time)")]
    if isinstance(every, str) and seconds(every) > limit - slurm.leave:
        what = f"{every} is more than the {limit - slurm.leave} s that a job trains for ({slurm.time} of slurm.time"
        return [Problem("checkpoint.every", f"{what}, less slurm.leave): a job that dies would have saved nothing")]
    return []


def _devices(cluster: Cluster, slurm: Slurm) -> list[str | Problem]:
    """A GRES is `name[:type][:count]`; of one that names more than one kind of device, nothing is said here."""
    found = re.fullmatch(r"gpu(?::[A-Za-z][^:,]*)?(?::(\d+))?", slurm.gres)
    ranks = cluster.devices_per_node
    if not found or ranks == "auto" or ranks <= (there := int(found[1] or 1)):
        return []
    what = f"{ranks} ranks on a node that is asked for {there} of its GPUs (slurm.gres: {slurm.gres})"
    return [_of(cluster, "devices_per_node", what)]


def _options(cluster: Cluster, slurm: Slurm) -> list[str | Problem]:
    out = list[str | Problem]()
    for option in slurm.options:
        found = re.fullmatch(r"--([a-z][a-z-]*)(=.*)?|-([a-zA-Z])\S*", option)
        if not found:
            out.append(_of(cluster, "slurm.options", f"{option!r}: should be as in --comment=text, each for itself"))
        elif (found[1] or found[3]) in _OWN:
            name = f"--{found[1]}" if found[1] else f"-{found[3]}"
            out.append(_of(cluster, "slurm.options", f"{name} is set by the launcher"))
    return out


def _of(cluster: Cluster, key: str, what: str) -> str:
    """A mistake in the profile."""
    return f"--cluster {cluster.given}: {key}: {what}"
