"""Devices and ranks, detected without importing torch."""

import os
import shutil
import subprocess
from dataclasses import dataclass

import psutil

from launcher.config.cluster import Cluster

GIB = 2**30


@dataclass(frozen=True)
class Devices:
    """Devices of a node. `memory`: bytes of a device, or of the whole machine for cpu; None: not known."""

    kind: str
    count: int
    memory: int | None


@dataclass(frozen=True)
class World:
    """The ranks of a run: `per_node` on each node of the cluster."""

    cluster: Cluster
    devices: Devices
    per_node: int

    @property
    def sizes(self) -> list[int]:
        """Number of ranks for each possible number of nodes, in ascending order."""
        minimum, maximum = self.cluster.nodes
        return [nodes * self.per_node for nodes in range(minimum, maximum + 1)]

    @property
    def max_ranks(self) -> int:
        """Ranks on the maximum number of nodes."""
        return self.sizes[-1]

    @property
    def device(self) -> str:
        """Device type."""
        return self.devices.kind

    @property
    def memory(self) -> int | None:
        """Bytes of memory of a rank; None: not known."""
        if self.devices.memory is None:
            return None
        return self.devices.memory // (self.per_node if self.devices.kind == "cpu" else 1)

    @property
    def threads(self) -> int | None:
        """Threads of a rank; None: not known on this machine."""
        node_cores = cores_of_a_node(self.cluster)
        return max(1, node_cores // self.per_node) if node_cores else None

    def misfit(self) -> str | None:
        """Return why a node cannot have this number of ranks; None: it can."""
        cluster, devices = self.cluster, self.devices
        if devices.kind != "cuda" or self.per_node <= devices.count:
            return None
        if cluster.scheduler.on_this_machine and not devices.count:
            what = f"--cluster {cluster.reference}: device: cuda, and nvidia-smi finds no GPU on this machine"
            return f"{what} (look at CUDA_VISIBLE_DEVICES, or cluster.device=cpu trains on the CPU)"
        available = f"{devices.count} GPU{'' if devices.count == 1 else 's'}"
        return f"--ranks: {self.per_node} ranks for {available} (one each at the most, or --cluster with device: cpu)"


def world(cluster: Cluster, ranks: int | None) -> World:
    """Return the ranks of a profile. `ranks`: number on each node, in place of the profile's."""
    devices = find(cluster)
    return World(cluster, devices, ranks or _each(cluster, devices))


def find(cluster: Cluster) -> Devices:
    """Return the devices of this machine that the profile allows; for other machines, the devices in the profile.

    Without an accelerator, the CPU is one device; if the profile requires GPUs, there is no device.
    """
    if not cluster.scheduler.on_this_machine:
        assert cluster.devices_per_node != "auto"
        size = None if cluster.memory_per_device == "auto" else int(cluster.memory_per_device * GIB)
        return Devices(cluster.device, cluster.devices_per_node, size)
    gpus = [] if cluster.device == "cpu" else _nvidia()
    configured = None if cluster.memory_per_device == "auto" else int(cluster.memory_per_device * GIB)
    if gpus and cluster.device in ("auto", "cuda"):
        return Devices("cuda", len(gpus), configured or min(gpus))
    kind = "cpu" if cluster.device == "auto" else cluster.device
    return Devices(kind, 0 if kind == "cuda" else 1, configured or int(psutil.virtual_memory().total))


def count(cluster: Cluster) -> int:
    """Return the ranks of a node: the number in the profile, or one for each device, at least one."""
    return _each(cluster, find(cluster))


def _each(cluster: Cluster, devices: Devices) -> int:
    return max(1, devices.count) if cluster.devices_per_node == "auto" else cluster.devices_per_node


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_of_a_node(cluster: Cluster) -> int | None:
    """Return the CPU cores that the ranks of a node share; None: not known on this machine."""
    return cores() if cluster.scheduler.on_this_machine else cluster.scheduler.cores_per_node


def _nvidia() -> list[int]:
    """Return the bytes of memory of each visible NVIDIA GPU; empty: none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "" or not (tool := shutil.which("nvidia-smi")):
        return []
    query = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    sizes = [int(line) * 2**20 for line in answer.stdout.split() if line.isdigit()] if answer.returncode == 0 else []
    return sizes if visible is None else sizes[: len(visible.split(","))]
