"""Clocks of nodes against each other."""

import logging
import time

import pytest

from launcher.distributed import health_check
from launcher.distributed.health_check import Node
from launcher.health import clocks


def test_an_offset_is_measured_at_the_middle_of_the_answer():
    assert clocks.offset(100.0, 115.0, 110.0) == 10.0


def test_the_clock_that_differs_from_most_is_named():
    (found,) = clocks.findings({"n1": 0.0, "n2": 10.0, "n3": 10.1})
    assert (found.level, found.found) == ("failure", "n1: its clock is 10.0 s behind that of most nodes")
    (found,) = clocks.findings({"n1": 0.0, "n2": 2.0})
    assert (found.level, found.found) == ("warning", "n2: its clock is 2.0 s ahead of that of n1")
    assert clocks.findings({"n1": 0.0, "n2": 0.02})[0].found == "the clocks of 2 nodes agree to 20 ms"


@pytest.mark.parametrize(
    ("ahead", "problem", "logged"), [(0.1, False, False), (10.0, False, True), (90.0, True, False)]
)
def test_a_job_starts_with_a_note_or_without_the_node(ahead, problem, logged, monkeypatch, caplog):
    """The answer of a node has its time, so that this check adds no connection to a start."""
    hosts, now = ("127.0.1.2", "127.0.1.1"), time.time
    caplog.set_level(logging.WARNING)
    with health_check.serve_answers(Node(1, hosts), "job-0") as answering:
        port = answering.getsockname()[1]
        calls = iter([0.0, ahead, 0.0])  # asked, answered by the other, received
        monkeypatch.setattr(time, "time", lambda: now() + next(calls, 0.0))
        found = health_check.peer_problem(Node(0, hosts), 1, port, "job-0")
    monkeypatch.undo()
    assert (found is not None and found.startswith("its clock is 90.0 s ahead of that of 127.0.1.2")) == problem
    assert ("its clock is 10.0 s ahead" in caplog.text) == logged


def test_the_clocks_of_nodes_that_answer_are_compared():
    hosts = ("127.0.1.2", "127.0.1.1", "127.0.1.3")
    with health_check.serve_answers(Node(1, hosts), "job-0") as answering:
        ahead = health_check.clocks_ahead(Node(0, hosts), {1: answering.getsockname()[1], 2: 1})
    assert ahead["127.0.1.2"] == 0.0 and abs(ahead["127.0.1.1"]) < 1
    assert "127.0.1.3" not in ahead
