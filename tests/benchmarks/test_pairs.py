"""Sides are measured in turn, and ratios are taken pair by pair."""

import io
import json

import pytest
from rich.console import Console

from benchmarks import _table
from benchmarks.pairs import Comparison, Measurement, Side, alternate


def comparison(*, higher_is_better: bool = True, **values: list[float]) -> Comparison:
    """A comparison with these values of each side."""
    sides = {side: [Measurement(value) for value in of_side] for side, of_side in values.items()}
    return Comparison("a title", "s", higher_is_better, sides)


def test_every_second_round_has_the_reverse_order_and_a_warm_up_does_not_count() -> None:
    order = list[str]()

    def side(name: str) -> Side:
        return Side(name, lambda: order.append(name) or float(len(order)))

    taken = alternate("order", "s", [side("ours"), side("first"), side("second")], pairs=2)
    assert order == ["ours", "first", "second", "second", "first", "ours", "ours", "first", "second"]
    assert taken.values("ours") == [6.0, 7.0]
    assert taken.values("second") == [4.0, 9.0]


def test_a_ratio_is_the_median_of_the_pairs_not_the_ratio_of_the_medians() -> None:
    taken = comparison(ours=[1.0, 8.0, 3.0], peer=[1.0, 2.0, 6.0])
    assert (taken.median("ours"), taken.median("peer")) == (3.0, 2.0)
    assert taken.ratios("peer") == [1.0, 4.0, 0.5]
    assert taken.ratio("peer") == 1.0
    assert taken.spread("ours") == pytest.approx(3.5 / 3)


def test_losses_are_compared_at_the_steps_that_both_sides_took() -> None:
    sides = {
        "ours": [Measurement(1.0, losses={1: 2.0, 2: 3.0}), Measurement(1.0, losses={3: 5.0})],
        "peer": [Measurement(1.0, losses={2: 4.0}), Measurement(1.0, losses={4: 9.0})],
        "other": [Measurement(1.0)],
    }
    taken = Comparison("losses", "s", True, sides)
    assert taken.loss_difference("peer") == 0.25
    assert taken.loss_difference("other") is None


@pytest.mark.parametrize("width", (80, 120))
def test_a_table_with_all_columns_has_one_line_a_side(width: int) -> None:
    figures = {"fill": 0.49, "GFLOP/s": 249.3, "% ceiling": 32.6}
    sides = {
        name: [Measurement(12_345.6, figures, {1: 10.0})] for name in ("launcher", "Trainer", "accelerate", "torch DDP")
    }
    console = Console(width=width, record=True, file=io.StringIO())
    _table.show(Comparison("mlm", "tokens/s", True, sides, ["a note"]), console)
    lines = console.export_text().splitlines()
    assert len(lines) == 1 + 1 + 4 + 1
    assert max(len(line.rstrip()) for line in lines) <= width
    assert lines[3].split() == ["Trainer", "12,346", "±0%", "1.00", "0.49", "249", "32.6", "0.0e+00"]


def test_json_has_every_value() -> None:
    summary = json.loads(json.dumps(_table.summary(comparison(ours=[1.0, 2.0], peer=[2.0, 2.0]))))
    assert summary["medians"] == {"ours": 1.5, "peer": 2.0}
    assert summary["values"]["ours"] == [1.0, 2.0]
    assert summary["ratios"] == {"peer": 0.75}
