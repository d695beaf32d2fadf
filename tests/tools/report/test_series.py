"""Metrics as columns: what counts after a resume, damaged lines, and thinned curves that keep their extremes."""

import json
from pathlib import Path

import numpy as np
import pytest

from launcher.storage.run_dir import RunDir
from launcher.tools.report import series


@pytest.fixture
def metrics(tmp_path):
    """A function that returns the metrics of a file with these lines."""

    def make(*lines):
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / "metrics.jsonl").write_text("\n".join(texts) + "\n")
        return series.read(RunDir(tmp_path))

    return make


def test_of_repeated_steps_the_later_ones_count_and_what_they_replaced_is_gone(metrics):
    steps = [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0), (2, 5.0), (3, 4.0)]
    found = metrics(*({"step": step, "loss": loss} for step, loss in steps)).training
    assert (found.steps.tolist(), found.column("loss").tolist()) == ([1, 2, 3], [9, 5, 4])


def test_evaluations_are_apart_and_columns_that_come_and_go_have_gaps(metrics):
    found = metrics({"step": 1, "loss": 2, "mfu": 0.5}, {"step": 1, "eval/loss": 3.0}, {"loss": None, "step": 2})
    assert found.evaluation.steps.tolist() == [1] and found.evaluation.has("eval/loss")
    assert np.isnan(found.training.column("loss")[1]) and found.training.column("mfu")[0] == 0.5
    assert not found.training.has("fill") and len(found.training.column("fill")) == 2


@pytest.mark.parametrize(
    "line", ["{", '{"step": -1, "loss": 1}', '{"step": true}', "[1]", "3", '{"loss": 1}', "\x00\xff", '{"step": 1e3}']
)
def test_a_line_that_is_no_record_is_counted(metrics, line):
    found = metrics({"step": 1, "loss": 1.0}, line, {"step": 2, "loss": 2.0})
    assert (found.damaged, found.training.column("loss").tolist()) == (1, [1.0, 2.0])


def test_a_value_that_is_no_number_is_missing(metrics):
    found = metrics(
        {"step": 1, "loss": "low", "x": [1]}, {"step": 2, "loss": 10**400, "x": {}}, {"step": 3, "loss": 1, "x": 2}
    )
    assert found.training.column("loss")[-1] == 1 and np.isnan(found.training.column("loss")[:1]).all()
    assert np.isnan(found.training.column("x")[:2]).all()


def test_a_run_without_metrics_has_no_steps():
    found = series.read(RunDir(Path("nowhere")))
    assert len(found.training.steps) == len(found.evaluation.steps) == 0


def test_an_evaluation_has_the_tokens_of_its_step(metrics):
    found = metrics({"step": 2, "loss": 1, "tokens": 100}, {"step": 4, "loss": 1, "tokens": 300})
    assert found.training.at(np.array([0, 1, 2, 3, 4]), "tokens").tolist() == [0, 50, 100, 200, 300]


@pytest.mark.parametrize("count", [1, 799, 801, 12345])
def test_a_thinned_curve_keeps_its_extremes(count):
    y = np.sin(np.arange(count))
    y[count // 2], y[count // 3] = 99.0, np.nan
    y[-1] = -99.0
    points = series.thin(np.arange(count), y, 400)
    assert len(points.x) <= 800
    assert points.high.max() == np.nanmax(y) and points.low.min() == -99.0
    assert points.exact == (count - 1 <= 800)
    assert (points.low <= points.mean + 1e-12).all() and (points.mean <= points.high + 1e-12).all()
