"""The interval between checkpoints: the least waste, by the formula and by trying others."""

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.plan import checkpoint_interval


def wall(interval, cost, between_failures):
    """Expected wall-clock seconds for each second of progress, without the time of restarts (Daly, 2006, eq. 13)."""
    return between_failures * (exp((interval + cost) / between_failures) - 1) / interval


@given(st.floats(0.01, 600), st.floats(3600, 1e7))
def test_no_other_interval_is_better_by_more_than_a_thousandth(cost, between_failures):
    best = checkpoint_interval.optimal(cost, between_failures)
    least = min(wall(best * factor / 100, cost, between_failures) for factor in range(30, 300, 5))
    assert wall(best, cost, between_failures) <= 1.001 * least


def test_a_save_that_takes_longer_than_the_time_between_failures_is_made_once_in_it():
    assert checkpoint_interval.optimal(100, 40) == 40


def test_a_job_of_many_nodes_fails_as_often_as_all_of_them():
    assert checkpoint_interval.of_job(5000, 2000) == pytest.approx(2.5 * 3600)
