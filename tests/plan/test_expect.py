"""What a cluster's figures let one expect."""

import pytest

from launcher.config.cluster import Cluster
from launcher.plan import expect


def cluster(**keys):
    return Cluster.model_validate(
        {"kind": "slurm", "nodes": 4, "devices_per_node": 8, "device": "cuda", "memory_per_device": 80, **keys}
    )


def test_nothing_is_promised_without_figures():
    assert expect.step_seconds(cluster(), 10**8, 10**6, 32) is None
    assert expect.hours_between_failures(cluster()) is None


def test_arithmetic_at_the_peak():
    assert expect.step_seconds(cluster(peak_tflops=300), 10**8, 10**6, 32) == pytest.approx(6e14 / (32 * 3e14))


@pytest.mark.parametrize("nodes, bandwidth", [(4, 10), (1, 100)])
def test_gradients_on_the_slowest_link(nodes, bandwidth):
    told = cluster(nodes=nodes, peak_tflops=1e6, links={"between_nodes": 10, "within_node": 100})
    ranks = 8 * nodes
    sent = 2 * (ranks - 1) / ranks * 10**8 * 4
    assert expect.step_seconds(told, 10**8, 10, ranks) == pytest.approx(sent / (bandwidth * 1e9))


def test_more_nodes_are_lost_more_often():
    assert expect.hours_between_failures(cluster(hours_between_failures=1000)) == 250


@pytest.mark.parametrize(
    "seconds, text",
    [(0.25, "0.2 s"), (40, "40 s"), (150, "2.5 min"), (7100, "118 min"), (9000, "2.5 h"), (2e5, "2.3 days")],
)
def test_durations(seconds, text):
    assert expect.duration(seconds) == text
