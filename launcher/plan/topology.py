"""What there is to train on here, found without importing torch."""

import os
import shutil
import subprocess
from dataclasses import dataclass

import psutil

from launcher.config.cluster import Cluster

GIB = 2**30


@dataclass(frozen=True)
class Devices:
    """Those of one node. `memory`: bytes of one device (of the whole machine for cpu); None: not known."""

    kind: str
    count: int
    memory: int | None


@dataclass(frozen=True)
class World:
    """The ranks of a run: so many on each of a cluster's nodes, which have these devices."""

    cluster: Cluster
    devices: Devices
    per_node: int

    @property
    def sizes(self) -> list[int]:
        """All ranks, with each number of nodes that the run goes on with: the fewest first."""
        least, most = self.cluster.nodes
        return [nodes * self.per_node for nodes in range(least, most + 1)]

    @property
    def memory(self) -> int | None:
        """Bytes of memory for a rank, where known."""
        if self.devices.memory is None:
            return None
        return self.devices.memory // (self.per_node if self.devices.kind == "cpu" else 1)

    @property
    def threads(self) -> int | None:
        """Of a rank; None where only the node knows."""
        there = cores_of_a_node(self.cluster)
        return max(1, there // self.per_node) if there else None

    def misfit(self) -> str | None:
        """Why a node with these devices cannot have so many ranks."""
        cluster, found = self.cluster, self.devices
        if found.kind != "cuda" or self.per_node <= found.count:
            return None
        if cluster.scheduler.on_this_machine and not found.count:
            what = f"--cluster {cluster.reference}: device: cuda, and nvidia-smi finds no GPU on this machine"
            return f"{what} (look at CUDA_VISIBLE_DEVICES, or cluster.device=cpu trains on the CPU)"
        there = f"{found.count} GPU{'' if found.count == 1 else 's'}"
        return f"--ranks: {self.per_node} ranks for {there} (one each at the most, or --cluster with device: cpu)"


def world(cluster: Cluster, ranks: int | None) -> World:
    """The ranks that a profile asks for, or so many on each node."""
    found = find(cluster)
    return World(cluster, found, ranks or _each(cluster, found))


def find(cluster: Cluster) -> Devices:
    """The devices of this machine that the profile allows; where there is no accelerator, its CPU as one device, and
    none where it asks for GPUs. Those of other machines are what the profile says."""
    if not cluster.scheduler.on_this_machine:
        assert cluster.devices_per_node != "auto"
        size = None if cluster.memory_per_device == "auto" else int(cluster.memory_per_device * GIB)
        return Devices(cluster.device, cluster.devices_per_node, size)
    gpus = [] if cluster.device == "cpu" else _nvidia()
    given = None if cluster.memory_per_device == "auto" else int(cluster.memory_per_device * GIB)
    if gpus and cluster.device in ("auto", "cuda"):
        return Devices("cuda", len(gpus), given or min(gpus))
    kind = "cpu" if cluster.device == "auto" else cluster.device
    return Devices(kind, 0 if kind == "cuda" else 1, given or int(psutil.virtual_memory().total))


def count(cluster: Cluster) -> int:
    """The ranks of a node that a profile asks for: one a device, where it does not say; at least one."""
    return _each(cluster, find(cluster))


def _each(cluster: Cluster, found: Devices) -> int:
    return max(1, found.count) if cluster.devices_per_node == "auto" else cluster.devices_per_node


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_of_a_node(cluster: Cluster) -> int | None:
    """The processors that the ranks of a node share; None where only the node knows."""
    return cores() if cluster.scheduler.on_this_machine else cluster.scheduler.cores_per_node


def _nvidia() -> list[int]:
    """Bytes of memory of each visible NVIDIA GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "" or not (tool := shutil.which("nvidia-smi")):
        return []
    query = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    sizes = [int(line) * 2**20 for line in answer.stdout.split() if line.isdigit()] if answer.returncode == 0 else []
    return sizes if visible is None else sizes[: len(visible.split(","))]
