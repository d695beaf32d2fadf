"""Check the machines of a profile, and print what was found."""

import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.config import paths, plugins
from launcher.config.errors import UserError
from launcher.distributed.exit_codes import DONE, FAILED
from launcher.health import disks, services
from launcher.health.finding import Check, Finding, worst
from launcher.tools.doctor import machine_checks, node_checks, other_nodes, request
from launcher.tools.doctor.machine_checks import Step

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster

FORMAT = 1
"""Version of the JSON."""
SHARED = ".launcher-doctor"
"""Folder in the current one in which nodes look for each other's files."""
_MODULE = "launcher.tools.doctor.node_process"


def steps(cluster: "Cluster", ranks: int | None) -> Iterator[Step]:
    """Yield what is looked at, and what was found. `ranks`: of a node, in the place of the profile's."""
    here = socket.gethostname()
    if cluster.scheduler.on_this_machine:
        yield from _of(_this_machine(cluster, ranks), here)
    else:
        yield "the scheduler"
        found = plugins.scheduler(cluster.scheduler).findings()
        yield from _of(_from_here(found), here)
        if worst(found) != "failure":
            yield from _nodes(cluster, ranks)
    yield "services"
    yield from _of(_services(cluster), here)


def _of(found: Iterator[Step], host: str) -> Iterator[Step]:
    """Yield steps, those without a host as findings of this one."""
    for step in found:
        if isinstance(step, Finding) and not step.host:
            yield Finding(step.group, step.check, step.level, step.found, step.cure, host)
        else:
            yield step


def _this_machine(cluster: "Cluster", ranks: int | None) -> Iterator[Step]:
    asked = request.of(cluster, ranks, "")
    os.environ.update(asked.variables)
    found = machine_checks.found_devices(asked)
    yield from machine_checks.all_of(asked, found)
    yield from node_checks.alone(asked, found, socket.gethostname())


def _from_here(of_scheduler: list[Finding]) -> Iterator[Step]:
    """Yield what concerns this machine, from which jobs start. `of_scheduler`: findings about the scheduler."""
    yield from of_scheduler
    yield "packages"
    yield from machine_checks.software()
    yield from disks.probed("current folder", Path.cwd(), "start in another folder")
    yield from disks.probed("cache", paths.cache(), "set LAUNCHER_CACHE or scratch.shared to another folder")


def _nodes(cluster: "Cluster", ranks: int | None) -> Iterator[Step]:
    """Yield what the nodes find."""
    scheduler = plugins.scheduler(cluster.scheduler)
    folder = Path.cwd() / SHARED / uuid.uuid4().hex[:12]
    try:
        asked = request.of(cluster, ranks, str(folder))
        commands = scheduler.node_commands(cluster, ["-m", _MODULE, request.as_json(asked)])
        if not commands:
            what = f"a scheduler of kind {cluster.kind} has no way to run checks on its nodes: only this machine was"
            yield Check("network", "nodes").warning(f"{what} looked at", "run launcher doctor on a node of a job")
            return
        yield "the nodes"
        yield from other_nodes.steps(commands)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.parent.is_dir() and not any(folder.parent.iterdir()):
            folder.parent.rmdir()


def _services(cluster: "Cluster") -> Iterator[Finding]:
    offline = services.is_offline()
    error = None if offline else services.hub_error()
    try:
        cached = services.prepared(paths.cache())
    except UserError:
        cached = services.Prepared(0, 0)
    yield from services.hub_findings(offline, error, services.hub_address(), cached)
    elsewhere = not cluster.scheduler.on_this_machine
    yield from services.wandb_findings(
        services.wandb_key_place(), services.WANDB_KEY in cluster.env_from, elsewhere
    )  # fmt: skip


def as_json(cluster: "Cluster", findings: list[Finding]) -> dict[str, object]:
    """Return the result as JSON."""
    return {
        "format": FORMAT,
        "profile": cluster.name,
        "kind": cluster.kind,
        "level": worst(findings),
        "checks": [asdict(finding) for finding in findings],
    }


def exit_code(findings: list[Finding]) -> int:
    return FAILED if worst(findings) == "failure" else DONE
