"""What a cluster's figures let one expect of a run: how long it takes at best, and how often a node is lost."""

from launcher.config.cluster import Cluster

_GRADIENT = 4
"""Bytes of a gradient's entry."""


def step_seconds(cluster: Cluster, parameters: int, tokens: float, ranks: int) -> float | None:
    """The least that an optimiser step takes, in seconds: its arithmetic at the devices' peak, or its gradients on the
    slowest link, whichever is longer; None where the profile has no peak.

    6 operations a parameter and token, forward and backward (Kaplan et al. 2020, Scaling Laws for Neural Language
    Models, section 2.1; attention's share left out). Averaging gradients in a ring sends 2 (n - 1) / n of them over
    each link (Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms).
    """
    if cluster.peak_tflops == "auto":
        return None
    arithmetic = 6 * parameters * tokens / (ranks * cluster.peak_tflops * 1e12)
    link = cluster.links.between_nodes if cluster.nodes[1] > 1 else cluster.links.within_node
    gradients = 2 * (ranks - 1) / ranks * parameters * _GRADIENT / (link * 1e9) if link else 0.0
    return max(arithmetic, gradients)


def hours_between_failures(cluster: Cluster) -> float | None:
    """The mean time until one of the nodes is lost."""
    return cluster.hours_between_failures / cluster.nodes[1] if cluster.hours_between_failures else None


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 40 s, 12 min, 3.5 h, 2.1 days."""
    for size, unit in ((86400 * 2, "days"), (3600 * 2, "h"), (120, "min")):
        if seconds >= size:
            number = seconds / {"days": 86400, "h": 3600, "min": 60}[unit]
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
