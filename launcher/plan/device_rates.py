"""What devices and links reach: figures of the cluster profile, or those of the data sheets of a named kind of GPU."""

import re
from dataclasses import dataclass

from launcher.config.cluster import Cluster
from launcher.plan.collectives import LinkRates
from launcher.plan.peak_flops import peak_flops
from launcher.plan.step_time import DeviceRates

_GIGA = 1e9


@dataclass(frozen=True)
class GpuKind:
    """A kind of GPU, in nodes as its vendor builds them.

    `device`: name as the driver reports it; `pattern`: of such names. `memory`: GiB that CUDA shows. `bandwidth`: GB
    per second of its memory. `within_node`, `between_nodes`: as in the profile's `links`. `per_node`: devices of a
    node.
    """

    device: str
    pattern: str
    memory: float
    bandwidth: float
    within_node: float
    between_nodes: float
    per_node: int = 8


KINDS = {
    "V100": GpuKind("V100-SXM2-32GB", r"V100-SXM[23].*", 31.7, 900, 150, 6.25),
    "A100-40GB": GpuKind("A100-SXM4-40GB", r"A100-SXM4?-40GB", 39.4, 1555, 300, 25),
    "A100": GpuKind("A100-SXM4-80GB", r"A100-SXM4?-80GB", 79.2, 2039, 300, 25),
    "L40S": GpuKind("L40S", r"L40S", 44.5, 864, 32, 25),
    "H100": GpuKind("H100 80GB HBM3", r"H100 80GB HBM3|H100 SXM5?", 79.1, 3350, 450, 50),
    "H200": GpuKind("H200", r"H200", 139.8, 4800, 450, 50),
    "B200": GpuKind("B200", r"B200", 178.4, 8000, 900, 50),
    "MI300X": GpuKind("MI300X", r"(AMD )?(Instinct )?MI300X", 191.5, 5300, 448, 50),
}
"""Kinds by short name. Sources: NVIDIA's data sheets of V100, A100, L40S, H100, H200 and HGX B200, and AMD's of MI300X:
memory, its bandwidth, and NVLink, Infinity Fabric or PCIe in one direction, half of what the sheets give for both.

Network ports are those of DGX-1 (four of 100 Gb/s for eight GPUs), DGX A100 (a port of 200 Gb/s each), DGX H100, H200
and B200 (400 Gb/s each), and usual ones for L40S (200 Gb/s) and MI300X (400 Gb/s)."""


def kind_of(device: str) -> GpuKind | None:
    """Return the kind of a device; None: not known. `device`: name as the driver reports it."""
    name = re.sub(r"^(NVIDIA |Tesla )*", "", device.strip())
    return next((kind for kind in KINDS.values() if re.fullmatch(kind.pattern, name)), None)


@dataclass(frozen=True)
class ClusterRates:
    """What the devices and links of a cluster reach. `peak`: FLOP/s of a device by its data sheet, for the MFU."""

    device: DeviceRates
    links: LinkRates
    peak: float


def rates(
    cluster: Cluster, kind: GpuKind | None, precision: str, per_node: int, nodes: int
) -> ClusterRates | list[str]:
    """Return the rates of a cluster, or the keys that its profile lacks. A figure of the profile has precedence over
    that of a `kind` of GPU. `per_node`: ranks of a node."""
    links, part = cluster.links, cluster.efficiency
    published = None if kind is None else peak_flops(kind.device, precision)
    peak = published if cluster.peak_tflops == "auto" else cluster.peak_tflops * 1e12
    memory = (kind.bandwidth if kind else None) if cluster.memory_bandwidth == "auto" else cluster.memory_bandwidth
    within = links.within_node or (kind.within_node if kind else None)
    between = links.between_nodes or (kind.between_nodes if kind else None)
    needed = {
        "peak_tflops": peak, "memory_bandwidth": memory,
        "links.within_node": within if per_node > 1 else 1.0, "links.between_nodes": between if nodes > 1 else 1.0,
    }  # fmt: skip
    missing = [key for key, value in needed.items() if value is None]
    if missing or peak is None or memory is None:
        return missing
    return ClusterRates(
        DeviceRates(peak * part.arithmetic, memory * _GIGA * part.memory, asynchronous=cluster.device != "cpu"),
        LinkRates(
            per_node,
            (within or 1.0) * _GIGA * part.links,
            (between or 1.0) * _GIGA * part.links,
            links.latency_within_node * 1e-6,
            links.latency_between_nodes * 1e-6,
        ),
        peak,
    )
