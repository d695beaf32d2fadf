"""Ranks that are slower than the others are named, and healthy ones are not."""

import itertools

import pytest

from launcher.train import stragglers
from launcher.train.stragglers import Stragglers


def named(monkeypatch, caplog, ranks, windows=1, step=1.0):
    """The messages after some windows. `ranks`: own seconds of each in a step; `step`: seconds of a whole step."""
    clock = itertools.count(0, step * 10)
    monkeypatch.setattr(stragglers.time, "monotonic", lambda: next(clock))
    compared = Stragglers([f"rank {rank} on node{rank} (cuda:{rank})" for rank in range(len(ranks))], window=10)
    for number in range(10 * windows + 1):
        compared.add([number * seconds for seconds in ranks])
    return caplog.messages


def test_a_slow_rank_is_named_with_host_and_device(monkeypatch, caplog):
    assert named(monkeypatch, caplog, [0.5, 0.51, 0.49, 0.9]) == [
        "note: rank 3 on node3 (cuda:3) takes 1.8 times the median of all ranks for data and forward: 900.0 ms a step, "
        "not 500.0, over 10 steps"
    ]


def test_of_two_ranks_the_slower_one_is_named(monkeypatch, caplog):
    assert [text[:14] for text in named(monkeypatch, caplog, [0.9, 0.5])] == ["note: rank 0 o"]


@pytest.mark.parametrize(("windows", "times"), [(20, 1), (21, 2)])
def test_a_slow_rank_is_named_once_in_a_while(monkeypatch, caplog, windows, times):
    assert len(named(monkeypatch, caplog, [0.5, 0.5, 0.9], windows)) == times


@pytest.mark.parametrize("ranks", [[0.5, 0.5, 0.74], [0.01, 0.01, 0.05], [0.0, 0.0], [0.5]])
def test_small_differences_are_healthy(monkeypatch, caplog, ranks):
    """The second: five times the median, and 4% of a step."""
    assert named(monkeypatch, caplog, ranks, windows=5) == []


def test_a_window_that_has_not_ended_says_nothing(monkeypatch, caplog):
    assert named(monkeypatch, caplog, [0.5, 5.0], windows=0) == []
