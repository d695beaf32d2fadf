"""What nodes find out together: the shared folder, names, clocks, and the speed of ranks and their connections."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from launcher.config.atomic_files import write
from launcher.config.paths import NODE_REPORT, node_message
from launcher.distributed import health_check, node_rendezvous
from launcher.distributed.health_check import Node
from launcher.distributed.launch_env import LOOPBACK
from launcher.distributed.node_rendezvous import NodeNotNeeded, Rendezvous, UnhealthyNodes
from launcher.distributed.rendezvous import MessageFolder, serve_store
from launcher.health import clocks, disks, rank_findings, rank_measurement, shared_folders
from launcher.health.finding import Check, Finding
from launcher.health.rank_measurement import Place
from launcher.plan.device_facts import Devices
from launcher.tools.doctor import machine_checks
from launcher.tools.doctor.machine_checks import Step
from launcher.tools.doctor.request import NodeRequest

_REACHED = Check("network", "nodes")
_CURE = "repair that node, or leave it out of the profile"


def alone(request: NodeRequest, found: Devices, host: str) -> Iterator[Step]:
    """Measure the ranks of the only node."""
    store, port = serve_store(health_check.listen((host,)), LOOPBACK)
    rendezvous = Rendezvous(LOOPBACK, port, {}, store=store)
    yield from _measure(request, found, Node(0, (host,)), rendezvous)


def together(request: NodeRequest, found: Devices, node: Node) -> Iterator[Step]:
    """Check what several nodes have to agree on. Only the first node yields what concerns all of them."""
    folder = Path(request.shared)
    yield "the shared folder"
    shared = _shared_folder(folder, node, request.wait)
    if shared:
        yield from (replace(one, host=node.name) for one in shared)  # each node sees something else
        return
    if node.index == 0:
        yield from shared_folders.findings(folder, len(node.hosts), disks.write_probe(folder))
    yield "the other nodes"
    try:
        rendezvous = node_rendezvous.join(folder / "nodes", node, 1, lambda: False)
    except UnhealthyNodes as error:
        if node.index == 0:
            yield from (_REACHED.failure(f"{host}: {why}", _CURE) for host, why in error.why.items())
        return
    except NodeNotNeeded:
        return
    if node.index == 0:
        yield from _others(folder, node, rendezvous)
    yield from _measure(request, found, node, rendezvous)


def _shared_folder(folder: Path, node: Node, seconds: float) -> list[Finding]:
    """Wait until every node has shown up in the folder. Returns the findings about those that do not; empty: all do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / f"here-{node.index}", node.name)
    except OSError as error:
        return shared_folders.unwritable(folder, error)
    deadline = time.monotonic() + seconds
    while missing := [host for i, host in enumerate(node.hosts) if not shared_folders.shows(folder, f"here-{i}")]:
        if time.monotonic() > deadline:
            return shared_folders.missing_nodes(folder, missing, seconds)
        time.sleep(0.1)
    return []


def _others(folder: Path, node: Node, found: Rendezvous) -> Iterator[Finding]:
    """Yield the findings about other nodes' names and clocks."""
    for host, why in found.excluded.items():
        yield _REACHED.failure(f"{host}: {why}", _CURE)
    if not found.excluded:
        yield _REACHED.ok(f"all {len(node.hosts)} nodes reach each other by their names")
    taking_part = {i: host for i, host in enumerate(node.hosts) if host not in found.excluded and i != node.index}
    reports = MessageFolder(folder / "nodes").read([node_message(NODE_REPORT, i) for i in taking_part])
    ports = {i: int(reports[node_message(NODE_REPORT, i)]["port"]) for i in taking_part
             if node_message(NODE_REPORT, i) in reports}  # fmt: skip
    yield from clocks.findings(health_check.clocks_ahead(node, ports))


def _measure(request: NodeRequest, found: Devices, node: Node, rendezvous: Rendezvous) -> Iterator[Step]:
    """Measure the ranks of the nodes that take part. The first node yields the findings."""
    hosts = [host for host in node.hosts if host not in rendezvous.excluded]
    per_node = machine_checks.rank_count(request, found)
    if found.count == 0 or (found.kind != "cpu" and per_node > found.count):
        return  # reported as a finding about devices
    yield f"{len(hosts) * per_node} ranks, each pair of them"
    places = _places(request, found.kind, hosts, node.name, per_node, rendezvous)
    processes = rank_measurement.start(places, os.environ | request.variables)
    try:
        if rendezvous.store is None:
            _wait(processes, rendezvous, len(hosts) * per_node, per_node)
            return
        of_ranks = [host for host in hosts for _ in range(per_node)]
        measured = rank_measurement.collect(processes, rendezvous.store, of_ranks, found.kind, per_node)
        yield from rank_findings.findings(measured, found.name)
        time.sleep(1.0 if len(hosts) > 1 else 0.0)  # other nodes read in this process's store that all is over
    finally:
        rank_measurement.end(processes)


def _places(
    request: NodeRequest, device: str, hosts: Sequence[str], own: str, per_node: int, found: Rendezvous
) -> list[Place]:
    """Return the places of this node's ranks."""
    first, world = hosts.index(own) * per_node, len(hosts) * per_node
    interface = "lo" if len(hosts) == 1 else "" if request.interface == "auto" else request.interface
    return [
        Place(first + i, world, per_node, found.host, found.port, device, request.seconds, interface)
        for i in range(per_node)
    ]


def _wait(processes: "Sequence[rank_measurement.Process]", found: Rendezvous, world: int, per_node: int) -> None:
    import torch.distributed as dist

    try:
        store = dist.TCPStore(found.host, found.port, is_master=False)
        rank_measurement.wait(processes, store, world, per_node)
    except (RuntimeError, ValueError):
        return  # the first node has ended
