"""The device of a rank: the type that was decided for its start, and its index among the devices that the rank sees."""

import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
import torch.distributed as dist

from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.format import plural
from launcher.distributed.launch_env import RankInfo, UnreachablePeer, host_name, rank_info
from launcher.distributed.stop_requests import StoppedBeforeTraining
from launcher.plan import topology, torch_report
from launcher.plan.device_facts import Devices
from launcher.plan.devices import Requested, decide
from launcher.plan.machine import Machine, ThisMachine
from launcher.plan.torch_report import TorchReport

if TYPE_CHECKING:
    from launcher.distributed.process_group import ProcessGroup

_ON_CPU = "cluster.device=cpu trains on the CPU"
_TYPES = ("cpu", "cuda", "xpu")
_REPORT_SECONDS = 120.0
"""Seconds for other ranks to report their devices."""

_log = logging.getLogger(__name__)


class RankMachine(ThisMachine):
    """The machine of a rank, whose process has torch."""

    def torch(self) -> TorchReport:
        return torch_report.make()


def require(device: str, machine: Machine | None = None) -> None:
    """Check that this host has a device: a run that was planned for a GPU does not train on the CPU.

    Raises RuntimeError with the reason. It does not raise UserError, after which the ranks of other hosts would wait
    for this one.
    """
    if problem := _missing(device, machine or RankMachine()):
        raise RuntimeError(problem)


def own_device(info: RankInfo, kind: str | None, machine: Machine | None = None) -> torch.device:
    """Return the device of this rank. `kind`: its type as the plan says; None: it is decided here, as for a profile
    with `device: auto`. Raises UserError."""
    machine = machine or RankMachine()
    if kind is None:
        found = decide("auto", machine)
        if found.reason is not None:
            raise UserError(f"{socket.gethostname()}: {found.reason.with_advice()}")
        for note in found.notes if info.local_rank == 0 else ():
            _log.warning("%s: %s", socket.gethostname(), note)
        kind = found.kind
    if problem := _missing(kind, machine):
        raise UserError(problem)
    return torch.device("cpu") if kind == "cpu" else torch.device(kind, _index(info, kind))


def _index(info: RankInfo, kind: str) -> int:
    return device_index(info, torch.accelerator.device_count(), kind)


def _missing(device: str, machine: Machine) -> str:
    """Return a message if torch cannot use a device of this type here; empty: it can."""
    found = None if device == "cpu" else torch.accelerator.current_accelerator(check_available=True)
    if device == "cpu" or (found is not None and found.type == device):
        return ""
    what = f"{socket.gethostname()} has no {device} device that torch can use"
    reason = decide(cast(Requested, device), machine).reason
    if reason is not None:
        return f"{what}: {reason.with_advice(_ON_CPU)}"
    error = machine.torch().error  # the driver lists the device
    return f"{what}{': ' if error else ''}{error} ({_ON_CPU})"


def device_index(info: RankInfo, count: int, kind: str) -> int:
    """Return the index of this rank's device, among those that it sees.

    It is the rank's local number, or 0 if it sees one device, which then should be only its own (see `check_distinct`).
    Raises UserError if there are more ranks than devices.
    """
    if info.local_rank < count and info.local_world <= count:
        return info.local_rank
    if count == 1:
        return 0
    raise UserError(_too_many(info, count, kind))


def check_distinct(
    info: RankInfo, device: torch.device, store: dist.Store, should_stop: Callable[[], bool] | None = None
) -> None:
    """Check that no other rank of this host has this rank's device, if it sees fewer devices than the host has ranks.

    Slurm and mpirun may show each rank only its own. Raises UserError if ranks share a device, UnreachablePeer, and
    StoppedBeforeTraining.
    """
    if device.type == "cpu" or info.local_world <= torch.accelerator.device_count():
        return
    names = [f"device/{host_name()}/{local_rank}" for local_rank in range(info.local_world)]
    own = device_identity(device)
    store.set(names[info.local_rank], own)
    _wait_for_reports(lambda: bool(store.check(names)), info, should_stop)
    if [store.get(name).decode() for name in names].count(own) > 1:
        raise UserError(_too_many(info, torch.accelerator.device_count(), device.type))


def check_same_type(
    info: RankInfo, device: torch.device, store: dist.Store, should_stop: Callable[[], bool] | None = None
) -> None:
    """Check that the ranks of all hosts have the same type of device, which each host has decided by itself.

    Raises UserError on all ranks, UnreachablePeer, and StoppedBeforeTraining.
    """
    if info.local_world == info.world:
        return

    def counts() -> dict[str, int]:
        return {kind: store.add(f"device-type/{kind}", 0) for kind in _TYPES}

    store.add(f"device-type/{device.type}", 1)
    _wait_for_reports(lambda: sum(counts().values()) >= info.world, info, should_stop)
    found = {kind: count for kind, count in counts().items() if count}
    if len(found) > 1:
        shares = ", ".join(f"{plural(count, 'rank')} a {kind} device" for kind, count in found.items())
        advice = "a host without a device that torch can use has logged why; CUDA_VISIBLE_DEVICES= for the CPU"
        raise UserError(f"the hosts have different devices: {shares} ({advice})")


def _wait_for_reports(arrived: Callable[[], bool], info: RankInfo, should_stop: Callable[[], bool] | None) -> None:
    """Wait until the other ranks have reported their devices. Raises UnreachablePeer and StoppedBeforeTraining."""
    deadline = time.monotonic() + _REPORT_SECONDS
    while not arrived():
        if should_stop is not None and should_stop():
            raise StoppedBeforeTraining
        if time.monotonic() > deadline:
            what = f"rank {info.rank} on {host_name()}: other ranks did not report their devices"
            raise UnreachablePeer(f"{what} in {_REPORT_SECONDS:.0f} s")
        time.sleep(0.05)


def device_identity(device: torch.device) -> str:
    """Return a text that differs between the devices of a host."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_properties(device).uuid)
    if device.type == "xpu":
        return str(torch.xpu.get_device_properties(device).uuid)
    return str(device)


def _too_many(info: RankInfo, count: int, kind: str) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    where = f" (CUDA_VISIBLE_DEVICES={visible})" if visible else ""
    what = f"{info.local_world} ranks on this host for {count} {kind} device(s){where}"
    return f"{what} (one rank a device at the most; CUDA_VISIBLE_DEVICES= for the CPU)"


def node_of(cluster: Cluster, process: "ProcessGroup") -> tuple[Cluster, int, Devices]:
    """Return what the connected ranks are planned for: the profile of this machine on their nodes, the ranks of a node,
    and its devices.

    The ranks hold their devices already. So a device has no problem, such as a process of another rank on an exclusive
    one: a process that a shell or a container started cannot be recognised as a rank.
    """
    local_world = rank_info().local_world
    nodes = 1 if process.world % local_world else process.world // local_world  # 1 if they are not spread evenly
    spread = cluster.model_copy(update={"nodes": (nodes, nodes), "device": process.device.type})
    found, per_node = topology.find(spread), process.world // nodes
    found = replace(found, each=tuple(replace(device, problem="") for device in found.each))
    sees_all = process.device.type == "cpu" or per_node <= found.count
    return spread, per_node, found if sees_all else found.of_each_rank(per_node)


def require_precision(process: "ProcessGroup", precision: str) -> None:
    """Check that the device of each rank computes in a precision. Raises UserError on all ranks."""
    if precision != "bf16" or process.device.type == "cpu":
        return
    device = torch_report.device(process.device.type, process.device.index)
    problem = "" if device.bf16 else f"rank {process.rank} on {host_name()}: {device.name} has no bf16"
    if problems := list(filter(None, process.all_gather_objects(problem))):
        raise UserError([f"train.precision: {one} (take fp16, or fp32)" for one in problems])
