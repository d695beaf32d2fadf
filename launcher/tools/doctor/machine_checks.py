"""The checks of one machine, in the order in which they are made. Each probe is called here, and judged in
launcher.health."""

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from launcher.config import paths
from launcher.config.errors import UserError, first_line
from launcher.health import devices, disks, gpu_topology, hostnames, limits, ports, versions
from launcher.health.finding import Check, Finding
from launcher.plan import writable_folders
from launcher.plan.device_facts import Devices
from launcher.plan.devices import Requested, decide
from launcher.plan.machine import ThisMachine
from launcher.tools.doctor.request import NodeRequest

Step = str | Finding
"""What is looked at next, or what was found."""


def all_of(request: NodeRequest, found: Devices, others: tuple[str, ...] = ()) -> Iterator[Step]:
    """Yield what is looked at, and the findings. `found`: devices of this machine. `others`: names of other nodes."""
    yield "packages"
    yield from software()
    yield "devices"
    yield from _devices(request, found)
    yield "memory and limits"
    yield from _limits(request, found)
    yield "disks"
    yield from _disks(request)
    yield "the network"
    yield from _network(request, others)


def found_devices(request: NodeRequest) -> Devices:
    """Return the devices of this machine. Drivers and torch are asked in child processes."""
    return decide(cast(Requested, request.device), ThisMachine())


def rank_count(request: NodeRequest, found: Devices) -> int:
    """Return the number of ranks of this node."""
    return request.ranks or max(1, found.count)


def software() -> Iterator[Finding]:
    """Yield the findings about packages."""
    found = versions.installed()
    yield from versions.findings(found, versions.project())
    if "deepspeed" in found:
        yield from versions.deepspeed_findings(found["deepspeed"].version, versions.import_deepspeed())


def _devices(request: NodeRequest, found: Devices) -> Iterator[Finding]:
    machine = ThisMachine()
    build = machine.torch_build()
    nvidia = devices.nvidia_is_here(found.kind, build)
    wanted = None if found.kind == "cpu" else request.ranks
    yield from devices.findings(found, wanted, build, machine.gpus() if nvidia else None)
    if nvidia:
        yield from versions.nccl_findings(*gpu_topology.nccl_versions())
        yield from gpu_topology.findings(gpu_topology.report())


def _limits(request: NodeRequest, found: Devices) -> Iterator[Finding]:
    ranks = rank_count(request, found)
    needed = None if request.memory is None else int(request.memory * 2**30 * 0.9)  # the kernel keeps a part
    yield from devices.memory_findings(devices.memory(), needed)
    yield from limits.findings(limits.of_this_process(), ranks, limits.has_infiniband())
    if limits.SHARED_MEMORY.is_dir():
        workers = 0 if found.kind == "cpu" else 2
        room = disks.space(limits.SHARED_MEMORY)
        yield from limits.shared_memory_findings(room, writable_folders.semaphores(ranks, workers))


def _disks(request: NodeRequest) -> Iterator[Finding]:
    yield from disks.probed("current folder", Path.cwd(), "start the run in another folder")
    try:
        yield from disks.probed("cache", paths.cache(), "set LAUNCHER_CACHE to another folder")
    except UserError as error:
        yield Check("disks", "cache").failure(first_line(error), "set HOME, or LAUNCHER_CACHE")
    try:
        yield from disks.probed("temporary", Path(tempfile.gettempdir()), "set TMPDIR to another folder")
    except OSError:
        cure = "set TMPDIR to a folder that can be written to"
        yield Check("disks", "temporary").failure("neither /tmp nor /var/tmp can be written to", cure)
    if request.scratch:
        yield from disks.probed("scratch.local", Path(request.scratch), "change scratch.local in the profile")


def _network(request: NodeRequest, others: tuple[str, ...]) -> Iterator[Finding]:
    name, several = socket.gethostname(), request.nodes > 1
    addresses = [address for other in others for address in hostnames.resolved(other)]
    resolved, own = hostnames.resolved(name), hostnames.own_addresses()
    yield from hostnames.findings(name, resolved, own, addresses, several, request.interface)
    for other in others:
        yield from hostnames.peer_findings(other, hostnames.resolved(other), own, resolved)
    yield from hostnames.interface_findings(request.interface, hostnames.interfaces_up(), several)
    yield from ports.probed(ports.requested(request.variables, os.environ))
