"""Binding of each rank to the CPU cores of the NUMA node of its GPU, by torch's elastic agent."""

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.numa.binding import NumaOptions

_NODES = Path("/sys/devices/system/node")
_LOGGER = "torch.numa.binding"


def options(device: str, nodes: Path = _NODES) -> "NumaOptions | None":
    """Return the options for ranks on this type of device; None: there is nothing to bind, or torch cannot bind.

    torch finds a GPU's node itself, and requires numactl. A rank that it cannot bind runs unbound. `nodes`: folder in
    which the kernel lists the NUMA nodes.
    """
    if device != "cuda" or shutil.which("numactl") is None or len(_with_cores(nodes)) < 2:
        return None
    try:  # an older torch binds commands, and no ranks that are forked from a server
        from torch.numa.binding import AffinityMode, NumaOptions, _maybe_wrap_with_numa_binding  # noqa: F401
    except ImportError:
        return None
    return NumaOptions(AffinityMode.NODE, should_fall_back_if_binding_fails=True)


def silence() -> None:
    """Suppress torch's traceback in a rank that runs unbound. The server from which ranks are forked calls it."""
    logging.getLogger(_LOGGER).setLevel(logging.CRITICAL + 1)


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
