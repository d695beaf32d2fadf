"""How the NVIDIA GPUs of a machine are connected: NVLink, peer access, and the network adapters on their NUMA nodes.

NVML reports NVLink and peer access; sysfs the NUMA node of each PCI device.
"""

import importlib.metadata
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import pynvml
from pydantic import TypeAdapter, ValidationError

from launcher.config.format import plural, some
from launcher.health.finding import Check, Finding
from launcher.plan.machine import NVML_SECONDS, TORCH_SECONDS, query
from launcher.plan.nvml import Handle, Nvml, NvmlError

T = TypeVar("T")
_MODULE = "launcher.health._gpu_topology_process"
_READ = 0
"""NVML_P2P_CAPS_INDEX_READ of nvml.h. The constant of pynvml is a tuple."""
_LINKS, _PEERS, _ADAPTERS = (Check("devices", name) for name in ("NVLink", "peer access", "network adapters"))


@dataclass(frozen=True)
class Connections:
    """Connections of the GPUs, by their index on the PCI bus.

    `links`: NVLink connections that are up and down, of each GPU; empty for a GPU without. `no_access`: pairs of GPUs
    that cannot read each other's memory. `numa`: NUMA node of each GPU; None: not known. `adapters`: NUMA nodes of the
    InfiniBand and RoCE adapters, by name. `error`: why there is no report.
    """

    links: tuple[tuple[int, int], ...] = ()
    no_access: tuple[tuple[int, int], ...] = ()
    numa: tuple[int | None, ...] = ()
    adapters: dict[str, int | None] = field(default_factory=dict)
    error: str = ""


def report() -> Connections:
    """Return the connections, from a child process."""
    answer = query("connections", NVML_SECONDS, _MODULE)
    if answer.stuck:
        return Connections(error=f"the NVIDIA driver did not answer in {NVML_SECONDS:.0f} s")
    try:
        return TypeAdapter(Connections).validate_python(json.loads(answer.text))
    except (ValidationError, ValueError):
        return Connections(error=f"NVML: {answer.error}")


def nccl_versions() -> tuple[str, str]:
    """Return the version of NCCL that torch uses and that of its package; empty: there is none."""
    package = ""
    for name in ("nvidia-nccl-cu13", "nvidia-nccl-cu12"):
        with suppress(importlib.metadata.PackageNotFoundError):
            package = package or importlib.metadata.version(name)
    return query("nccl", TORCH_SECONDS, _MODULE).text, package


def make(nvml: Nvml, sysfs: Path = Path("/sys")) -> Connections:
    """Query NVML and sysfs. An error becomes part of the report."""
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    except NvmlError as error:
        return Connections(error=f"NVML: {error}")
    return Connections(
        links=tuple(_links(nvml, handle) for handle in handles),
        no_access=tuple(pair for pair in combinations(range(len(handles)), 2) if _lacks_access(nvml, handles, pair)),
        numa=tuple(_numa_of_gpu(nvml, handle, sysfs) for handle in handles),
        adapters={file.name: _numa(file / "device") for file in sorted((sysfs / "class/infiniband").glob("*"))},
    )


def _links(nvml: Nvml, handle: Handle) -> tuple[int, int]:
    """Return the NVLink connections of a GPU that are up and down. NVML refuses numbers that a GPU does not have."""
    states = []
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        try:
            states.append(nvml.nvmlDeviceGetNvLinkState(handle, link))
        except NvmlError:
            break
    return sum(state == pynvml.NVML_FEATURE_ENABLED for state in states), states.count(pynvml.NVML_FEATURE_DISABLED)


def _lacks_access(nvml: Nvml, handles: list[Handle], pair: tuple[int, int]) -> bool:
    one, other = (handles[index] for index in pair)
    status = _known(lambda: nvml.nvmlDeviceGetP2PStatus(one, other, _READ))
    return status is not None and status != pynvml.NVML_P2P_STATUS_OK


def _numa_of_gpu(nvml: Nvml, handle: Handle, sysfs: Path) -> int | None:
    """Return the NUMA node of a GPU. NVML writes the domain of a bus with 8 digits, sysfs with 4."""
    found = _known(lambda: nvml.nvmlDeviceGetPciInfo(handle).busId)
    if found is None:
        return None
    bus = (found.decode() if isinstance(found, bytes) else found).lower()
    return _numa(sysfs / "bus/pci/devices" / bus[-12:])


def _numa(device: Path) -> int | None:
    with suppress(OSError, ValueError):
        node = int((device / "numa_node").read_text())
        return node if node >= 0 else None
    return None


def _known(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except NvmlError:
        return None


def findings(found: Connections) -> list[Finding]:
    """Return the findings about connections. A single GPU has none to others."""
    if found.error:
        return [_LINKS.warning(found.error, "look at nvidia-smi topo -m")]
    lines = [*_link_findings(found), *_access_findings(found)] if len(found.numa) > 1 else []
    far = [
        f"GPU {index}" for index, node in enumerate(found.numa)
        if node is not None and found.adapters and node not in found.adapters.values()
    ]  # fmt: skip
    if far:
        what = f"{some(far)}: no adapter is on the same NUMA node ({some(sorted(found.adapters))})"
        lines.append(_ADAPTERS.warning(what, "nothing to repair: transfers from there cross the processors' link"))
    elif found.adapters:
        lines.append(_ADAPTERS.ok(f"{some(sorted(found.adapters), 4)}, on the NUMA nodes of the GPUs"))
    return lines


def _link_findings(found: Connections) -> list[Finding]:
    up, down = [one for one, _ in found.links], sum(off for _, off in found.links)
    if down:
        broken = [f"GPU {index} ({off} down, {one} up)" for index, (one, off) in enumerate(found.links) if off]
        cure = "look at nvidia-smi nvlink --status, and at dmesg for Xid 74; reset the GPUs or the fabric manager"
        return [_LINKS.failure(f"connections are down: {some(broken, 8)}", cure)]
    if not any(up):
        return [_LINKS.ok("none: the GPUs are connected by PCIe")]
    if min(up) < max(up):
        fewer = [f"GPU {index} ({one} of {max(up)})" for index, one in enumerate(up) if one < max(up)]
        return [_LINKS.warning(f"fewer connections than others: {some(fewer)}", "look at nvidia-smi nvlink --status")]
    return [_LINKS.ok(f"{plural(up[0], 'connection')} of each GPU up")]


def _access_findings(found: Connections) -> list[Finding]:
    if not found.no_access:
        return [_PEERS.ok("each GPU reads the memory of each other")]
    pairs = [f"{one} and {other}" for one, other in found.no_access]
    cure = "look at nvidia-smi topo -p2p r; ACS in the BIOS, IOMMU, or a virtual machine prevent it"
    return [_PEERS.warning(f"GPUs that cannot read each other's memory: {some(pairs)}", cure)]
