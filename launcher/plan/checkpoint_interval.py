"""The interval between checkpoints that loses the least time, and the mean time between failures of a job."""

from math import exp, expm1, sqrt

from launcher.config.cluster import Cluster

HOURS_OF_NODE = 1000.0
"""Hours between failures of one node, for a cluster profile that gives none: a round number below the 3,700 hours that
follow from 6.5 failures in 1,000 days of a node (Kokolis et al., "Revisiting Reliability in Large-Scale Machine
Learning Research Clusters", 2024)."""
_MOST_EXPONENT = 100.0
"""Ratio of an interval to the time between failures from which no goodput is left."""
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


def goodput(every: float, cost: float, restart: float, between_failures: float) -> float:
    """Return the expected share of a job's seconds in steps that count, if nodes fail.

    `every`: seconds of training between two checkpoints; `cost`: seconds of a save; `restart`: seconds from a failure
    to the next step; `between_failures`: mean seconds between failures of the job. By Daly (2006), equation 20, a
    second of training takes between_failures x exp(restart / between_failures) x (exp((every + cost) /
    between_failures) - 1) / every seconds.
    """
    if every + cost + restart > _MOST_EXPONENT * between_failures:
        return 0.0
    stretch = exp(restart / between_failures) * expm1((every + cost) / between_failures)
    return min(1.0, every / (between_failures * stretch))


def of_job(hours_of_node: float, nodes: int) -> float:
    """Return the mean seconds between failures of a job: one of its nodes fails as often as all of them together.

    `hours_of_node`: mean hours between failures of one node.
    """
    return hours_of_node * 3600 / nodes


def between_failures(cluster: Cluster) -> float:
    """Return the mean seconds between failures of a job on all nodes of a cluster."""
    return of_job(cluster.hours_between_failures or HOURS_OF_NODE, cluster.nodes[1])
