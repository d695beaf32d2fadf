"""CPU cores and GPUs of a cluster's nodes, as Slurm reports them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from launcher.schedulers import _slurm_queue

_GPU = re.compile(r"gpu(?::([^:,()]*[^:,()\d][^:,()]*))?(?::(\d+))?")
"""A generic resource of GPUs: `gpu[:type][:count]`."""
_FIELD = re.compile(r"(?:^| )(CPUEfctv|CPUTot|Gres|Partitions)=(\S*)")
_SOCKETS = re.compile(r"\([^)]*\)")


@dataclass(frozen=True)
class SlurmNode:
    """A node. `cores`: CPU cores for jobs. `gpus`: number of GPUs by type; empty: no type. `partitions`: names."""

    cores: int
    gpus: dict[str, int]
    partitions: frozenset[str]


def cores_of(partition: str | None, requested: dict[str, int]) -> int | None:
    """Return the cores that belong to the requested GPUs of a node; None: Slurm does not report it.

    `partition`: names with commas; None: the default partition. `requested`: number of GPUs by type; empty: any type.
    """
    try:
        names = partition or default_partition(_slurm_queue.partitions()) or ""
        return share(parse(_slurm_queue.nodes()), names.split(","), requested)
    except (_slurm_queue.SlurmMissing, _slurm_queue.SlurmTimeout):  # a submission reports it
        return None


def parse(text: str) -> list[SlurmNode]:
    """Return the nodes in the output of `scontrol show node --oneliner`."""
    nodes = []
    for line in text.splitlines():
        fields: dict[str, str] = dict(_FIELD.findall(line))
        cores = fields.get("CPUEfctv", fields.get("CPUTot", ""))  # CPUEfctv leaves out those of the system
        if cores.isdecimal():
            partitions = frozenset(fields.get("Partitions", "").split(","))
            nodes.append(SlurmNode(int(cores), gpus_of(fields.get("Gres", "")), partitions))
    return nodes


def gpus_of(gres: str) -> dict[str, int]:
    """Return the number of GPUs by type in a list of generic resources, such as gpu:a100:8(S:0-1),nvme:1."""
    found = dict[str, int]()
    for entry in _SOCKETS.sub("", gres).split(","):
        if match := _GPU.fullmatch(entry):
            found[match[1] or ""] = found.get(match[1] or "", 0) + int(match[2] or 1)
    return found


def default_partition(text: str) -> str | None:
    """Return the default partition in the output of `sinfo --noheader --format=%P`, which marks it with a star."""
    return next((name.rstrip("*") for name in text.split() if name.endswith("*")), None)


def share(nodes: Iterable[SlurmNode], partitions: Sequence[str], requested: dict[str, int]) -> int | None:
    """Return the smallest share of cores of all suitable nodes; None: no node is suitable."""
    shares = [
        node.cores * sum(requested.values()) // sum(node.gpus.values())
        for node in nodes
        if node.partitions & {*partitions} and _has(node, requested)
    ]
    return max(1, min(shares)) if shares else None


def _has(node: SlurmNode, requested: dict[str, int]) -> bool:
    return bool(requested) and all(
        count <= (node.gpus.get(kind, 0) if kind else sum(node.gpus.values())) for kind, count in requested.items()
    )
