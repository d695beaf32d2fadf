"""Binding of each rank to the CPU cores of the NUMA node of its GPU, by torch's elastic agent."""

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.numa.binding import NumaOptions

_SYSTEM = Path("/sys")
_GPU_VENDORS, _GPU_CLASSES = ("0x10de", "0x1002"), ("0x03", "0x12")
"""PCI vendors NVIDIA and AMD; PCI classes of display controllers and of processing accelerators."""
_LOGGER = "torch.numa.binding"


def options(device: str, system: Path = _SYSTEM) -> "NumaOptions | None":
    """Return the options for ranks on this type of device; None: there is nothing to bind, or torch cannot bind.

    torch finds a GPU's node itself, and requires numactl. A rank that it cannot bind runs unbound. `system`: folder in
    which the kernel lists the NUMA nodes and the PCI devices.
    """
    nodes = _with_cores(system / "devices/system/node")
    if device != "cuda" or shutil.which("numactl") is None or len(nodes) < 2:
        return None
    if not _nodes_are_known(system / "bus/pci/devices"):
        return None
    try:  # an older torch binds commands, and no ranks that are forked from a server
        from torch.numa.binding import AffinityMode, NumaOptions, _maybe_wrap_with_numa_binding  # noqa: F401
    except ImportError:
        return None
    return NumaOptions(AffinityMode.NODE, should_fall_back_if_binding_fails=True)


def silence() -> None:
    """Suppress torch's traceback in a rank that runs unbound. The server from which ranks are forked calls it."""
    logging.getLogger(_LOGGER).setLevel(logging.CRITICAL + 1)


def _nodes_are_known(devices: Path) -> bool:
    """Return whether the kernel knows the NUMA node of each GPU.

    A virtual machine may have several nodes, and GPUs of none (-1). torch takes node 0 then, so that all ranks would
    run on its cores.
    """
    gpus = [file.parent for file in devices.glob("*/vendor") if file.read_text().strip() in _GPU_VENDORS]
    gpus = [gpu for gpu in gpus if (gpu / "class").read_text().startswith(_GPU_CLASSES)]
    return bool(gpus) and all(int((gpu / "numa_node").read_text()) >= 0 for gpu in gpus)


def _with_cores(nodes: Path) -> list[Path]:
    """Return the NUMA nodes that have CPU cores on which this process may run."""
    found = [file.parent for file in nodes.glob("node[0-9]*/cpulist")]  # none on other systems than Linux
    return [node for node in found if os.sched_getaffinity(0) & _cores(node)]


def _cores(node: Path) -> set[int]:
    """Return the cores of a node, from the kernel's notation: 0-3,8."""
    cores = set[int]()
    for part in (node / "cpulist").read_text().strip().split(","):
        first, _, last = part.partition("-")
        if first:
            cores |= set(range(int(first), int(last or first) + 1))
    return cores
