"""The watched metric: what is better, what is enough."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.config.training import Evaluate
from launcher.train import early_stopping

values = st.lists(st.floats(-5, 5), max_size=12).map(lambda found: [(10 * n, v) for n, v in enumerate(found, 1)])


@pytest.mark.parametrize(
    ("keys", "expected"),
    [({}, 0.5), ({"metric": "f1"}, -0.8), ({"metric": "f1/art"}, -0.2), ({"metric": "f1", "direction": "min"}, 0.8)],
)
def test_a_metric_is_turned_so_that_less_is_better(keys, expected):
    found = {"loss": 0.5, "f1": 0.8, "f1/art": 0.2}
    assert early_stopping.value(found, Evaluate(**keys), {"loss": "min", "f1": "max"}) == expected


def test_one_that_is_no_number_is_as_bad_as_can_be():
    assert early_stopping.value({"loss": math.nan}, Evaluate(), {"loss": "min"}) == math.inf


def test_it_is_never_enough_without_a_patience():
    assert not early_stopping.enough([(n, float(n)) for n in range(100)], Evaluate())


@pytest.mark.parametrize(
    ("found", "patience", "delta", "expected"),
    [
        ([], 1, 0, False),
        ([3], 1, 0, False),
        ([3, 2], 1, 0, False),
        ([3, 3], 1, 0, True),
        ([3, 2, 2.5], 2, 0, False),
        ([3, 2, 2.5, 2], 2, 0, True),
        ([3, 2, 2.5, 1], 2, 0, False),
        ([3, 2.95, 2.9], 2, 0.2, True),
        ([math.inf, math.inf], 1, 0, True),
        ([math.inf, 3], 1, 0.5, False),
    ],
)
def test_it_is_enough_after_so_many_evaluations_without_a_better_one(found, patience, delta, expected):
    history = [(n, float(v)) for n, v in enumerate(found)]
    assert early_stopping.enough(history, Evaluate(patience=patience, min_delta=delta)) is expected


@given(values)
def test_the_best_so_far_is_less_than_all_before_it(history):
    for number, (step, found) in enumerate(history):
        expected = all(found < before for _, before in history[:number])
        assert early_stopping.best_so_far(history, step) is expected
    assert not early_stopping.best_so_far(history, 5)
