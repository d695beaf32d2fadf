"""Devices and ranks of a profile, without an import of torch."""

import logging
import os
from dataclasses import dataclass, replace

import psutil

from launcher.config.cluster import Cluster
from launcher.config.format import plural
from launcher.plan.device_facts import Device, Devices
from launcher.plan.devices import decide
from launcher.plan.machine import Machine, ThisMachine

GIB = 2**30

_log = logging.getLogger(__name__)


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

    @property
    def own_devices(self) -> tuple[Device, ...]:
        """The devices of a node's ranks, where they are known."""
        return self.devices.each[: self.per_node]

    def problems(self) -> list[str]:
        """Return why a node cannot have these ranks; empty: it can."""
        cluster, devices = self.cluster, self.devices
        if devices.reason is not None:
            return [
                f"{cluster.place('device')}: {cluster.device}: "
                + devices.reason.with_advice("cluster.device=cpu trains on the CPU")
            ]
        if devices.sliced and self.per_node > 1:
            what = f"--ranks: {self.per_node} ranks on MIG slices, and CUDA shows a process only one"
            return [f"{what} (one rank, or turn MIG off)"]
        if devices.kind != "cpu" and self.per_node > devices.count:
            available = plural(devices.count, "GPU")
            advice = "one each at the most, or --cluster with device: cpu"
            return [f"--ranks: {self.per_node} ranks for {available} ({advice})"]
        return [device.problem for device in self.own_devices if device.problem]

    def precision_problem(self, precision: str) -> str | None:
        """Return why a device cannot compute in a precision; None: each can, or it is not known yet."""
        without = next((device for device in self.own_devices if not device.bf16), None)
        if precision != "bf16" or without is None:
            return None
        return f"{without.name} has no bf16 (take fp16, or fp32)"

    def notes(self) -> list[str]:
        """Return remarks about the devices, and about what a scheduler gives to their ranks."""
        warnings = [device.warning for device in self.own_devices if device.warning]
        return [*self.devices.notes, *warnings, *self.cluster.scheduler.notes(self.cluster)]


def world(cluster: Cluster, ranks: int | None, devices: Devices | None = None) -> World:
    """Return the ranks of a profile. `ranks`: number on each node, in place of the profile's. `devices`: of a node, if
    they are decided already."""
    devices = devices or find(cluster)
    return World(cluster, devices, ranks or _each(cluster, devices))


def find(cluster: Cluster, machine: Machine | None = None) -> Devices:
    """Return the devices of this machine that the profile allows; for other machines, the devices in the profile.

    Without an accelerator, the CPU is one device; if the profile requires one, there is none, with the reason.
    `machine`: where they are looked for, by default this one.
    """
    configured = None if cluster.memory_per_device == "auto" else int(cluster.memory_per_device * GIB)
    if not cluster.scheduler.on_this_machine:
        assert cluster.devices_per_node != "auto"
        return Devices(cluster.device, cluster.devices_per_node, configured)
    devices = decide(cluster.device, machine or ThisMachine())
    memory = int(psutil.virtual_memory().total) if devices.kind == "cpu" else devices.memory
    return replace(devices, memory=configured or memory)


def log_notes(cluster: Cluster) -> None:
    """Log the remarks about the devices that a profile selects, for a command that shows no plan."""
    for note in find(cluster).notes:
        _log.warning("%s", note)


def count(cluster: Cluster) -> int:
    """Return the ranks of a node: the number in the profile, or one for each device, at least one."""
    return _each(cluster, find(cluster))


def _each(cluster: Cluster, devices: Devices) -> int:
    if cluster.devices_per_node != "auto":
        return cluster.devices_per_node
    return 1 if devices.sliced else max(1, devices.count)


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_of_a_node(cluster: Cluster) -> int | None:
    """Return the CPU cores that the ranks of a node share; None: not known on this machine."""
    return cores() if cluster.scheduler.on_this_machine else cluster.scheduler.cores_per_node
