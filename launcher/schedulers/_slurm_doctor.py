"""Slurm as `launcher doctor` sees it: its commands on this machine, and the step that checks the nodes."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from launcher.config.errors import UserError
from launcher.config.format import some
from launcher.health.finding import Check, Finding
from launcher.schedulers import _slurm_queue

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster
    from launcher.schedulers.slurm import Config

COMMANDS = ("sbatch", "srun", "scontrol", "scancel", "sinfo")
MINUTES, IMMEDIATE = 10, 120
"""Time limit of the job that checks the nodes, in minutes, and seconds for which it waits in the queue."""
_CHECK = Check("services", "Slurm")


def findings(partition: str | None) -> list[Finding]:
    """Return the findings about Slurm's commands and its controller. `partition`: of the profile; None: the default."""
    if absent := [name for name in COMMANDS if shutil.which(name) is None]:
        cure = "run this where Slurm's commands are: a login node"
        return [_CHECK.failure(f"{', '.join(absent)} cannot be found here", cure)]
    try:
        names = [name.strip() for name in _slurm_queue.partitions().splitlines() if name.strip()]
    except UserError as error:
        return [_CHECK.failure(str(error), "ask its administrators whether slurmctld runs (scontrol ping)")]
    plain = [name.removesuffix("*") for name in names]
    if partition is not None and any(name not in plain for name in partition.split(",")):
        cure = f"set slurm.partition to one of: {some(plain, 8)}"
        return [_CHECK.failure(f"there is no partition {partition}", cure)]
    if partition is None and plain == names:
        return [_CHECK.failure("no partition is the default one", f"set slurm.partition to one of: {some(plain, 8)}")]
    return [_CHECK.ok(f"its controller answers; partitions: {some(names, 5)}")]


def command(
    config: "Config", cluster: "Cluster", arguments: Sequence[str], environment: Mapping[str, str]
) -> list[str]:
    """Return the step that runs Python once on each node: inside an allocation a part of it, else a short job.

    The job waits in the queue for a limited time. A container of the profile is not entered.
    """
    nodes = cluster.nodes[0]
    words = [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        "--input=none",
        "--kill-on-bad-exit=0",
    ]
    python = [(config.python if config.container is None else None) or sys.executable, *arguments]
    if "SLURM_JOB_ID" in environment:
        return [*words, "--overlap", *_cores(config, cluster), *python]
    options = {
        "partition": config.partition, "account": config.account, "qos": config.qos, "constraint": config.constraint,
        "mem": config.memory_per_node, "gres": _gres(config, cluster), "time": str(MINUTES),
        "immediate": str(IMMEDIATE), "job-name": "launcher-doctor",
    }  # fmt: skip
    words += [f"--{name}={value}" for name, value in options.items() if value is not None]
    exclusive = ["--exclusive"] if config.exclusive else []
    return [*words, *_cores(config, cluster), *exclusive, *config.options, *python]


def _cores(config: "Config", cluster: "Cluster") -> list[str]:
    """Return the option for the cores of a node; empty: the partition's default. On a CPU each rank needs one."""
    if config.cpus_per_node is not None:
        return [f"--cpus-per-task={config.cpus_per_node}"]
    return [f"--cpus-per-task={cluster.devices_per_node}"] if cluster.device == "cpu" and not config.exclusive else []


def _gres(config: "Config", cluster: "Cluster") -> str | None:
    """Return the generic resources of a node; None: none."""
    if config.gres == "none" or cluster.device == "cpu":
        return None
    return f"gpu:{cluster.devices_per_node}" if config.gres in ("auto", "gpus_per_node") else config.gres
