"""The interval between checkpoints that loses the least time, and the mean time between failures of a job."""

from math import sqrt

from launcher.config.cluster import Cluster

HOURS_OF_NODE = 1000.0
"""Hours between failures of one node, for a cluster profile that gives none: a round number below the 3,700 hours that
follow from 6.5 failures in 1,000 days of a node (Kokolis et al., "Revisiting Reliability in Large-Scale Machine
Learning Research Clusters", 2024)."""
LEAST_COST = 1.0
"""Least seconds that a save is taken to cost: it also slows the steps beside it and the disk of others, which is not
measured."""


def optimal(cost: float, between_failures: float) -> float:
    """Return the seconds of training between two checkpoints that minimise the time lost to saves and failures.

    `cost`: seconds that a save takes from the training; `between_failures`: mean seconds between failures of the job.
    The formula is that of Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", Future
    Generation Computer Systems 22 (2006); its first term, sqrt(2 cost between_failures), is Young's (1974).
    """
    if cost >= 2 * between_failures:
        return between_failures
    part = cost / (2 * between_failures)
    return sqrt(2 * cost * between_failures) * (1 + sqrt(part) / 3 + part / 9) - cost


def of_job(hours_of_node: float, nodes: int) -> float:
    """Return the mean seconds between failures of a job: one of its nodes fails as often as all of them together.

    `hours_of_node`: mean hours between failures of one node.
    """
    return hours_of_node * 3600 / nodes


def between_failures(cluster: Cluster) -> float:
    """Return the mean seconds between failures of a job on all nodes of a cluster."""
    return of_job(cluster.hours_between_failures or HOURS_OF_NODE, cluster.nodes[1])
