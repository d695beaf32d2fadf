"""The value of a run, the order of trials, and the table of them."""

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from launcher.storage.run_dir import RunDir
from launcher.tools.sweep import picture, results, table
from launcher.tools.sweep.record import Record, RunEnd, Sweep


@pytest.mark.parametrize(
    ("direction", "best", "value"), [("min", False, 3.0), ("min", True, 1.0), ("max", True, 4.0), ("max", False, 3.0)]
)
def test_the_value_is_that_of_the_model_that_a_run_leaves(direction, best, value):
    assert results.value_of({2: 4.0, 4: 1.0, 6: 3.0}, direction, best) == value


def test_a_value_that_is_not_finite_is_none():
    assert results.value_of({2: 4.0, 4: math.nan}, "min", best=False) is None
    assert results.value_of({2: 4.0, 4: math.nan}, "min", best=True) == 4.0
    assert results.value_of({}, "min", best=False) is None


def test_evaluations_are_those_on_the_validation_samples(tmp_path):
    lines = [{"step": 2, "loss": 9.0}, {"step": 2, "eval/loss": 1.0}, {"step": 4, "eval/loss": None}]
    lines += [{"step": 2, "eval/loss": 0.5}, {"step": 6, "test/loss": 7.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = results.evaluations(RunDir(tmp_path), "loss")
    assert found[2] == 0.5 and math.isnan(found[4]) and len(found) == 2


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Four trials of two seeds: the values of the runs, and how they ended."""
    monkeypatch.chdir(tmp_path)
    runs = [[0.5, 0.7], [0.1, None], [0.4, 0.6], [0.2, 0.2]]
    ends = {3: RunEnd(state="failed", error="the loss [bold] exploded"), 2: RunEnd(state="done")}
    ended = {f"tiny-{n}": ends.get(n, RunEnd(state="done")) for n in range(6)} | {"tiny-6": RunEnd(state="pruned")}
    for n, value in enumerate(value for trial in runs for value in trial):
        folder = Path("runs", f"tiny-{n}")
        folder.mkdir(parents=True)
        if value is not None:
            (folder / "metrics.jsonl").write_text(json.dumps({"step": 4, "eval/loss": value}) + "\n")
    trials = [{"optimizer.lr": 10.0**-n, "task.kind": f"[red]kind-{n}"} for n in range(4)]
    known = Record.model_construct(
        name="tiny", method="grid", metric="loss", direction="min", seeds=[3, 4], trials=trials, ended=ended,
        space=["optimizer.lr=1.0,0.1,0.01,0.001", "task.kind=a,b,c,d"],
    )  # fmt: skip
    return Sweep(tmp_path, known)


def test_only_trials_with_all_seeds_are_ranked(sweep):
    found = results.collect(sweep, best=False)
    assert [one.number for one in results.ranked(found, "min")] == [2, 0, 1, 3]
    assert [one.number for one in results.ranked(found, "max")] == [0, 2, 1, 3]
    assert results.best_of(found, "min").number == 2
    assert (found[0].mean, found[0].deviation) == (pytest.approx(0.6), pytest.approx(0.2 / math.sqrt(2)))
    assert [one.state for one in found] == ["done", "failed", "done", "pruned"]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_table_fits_and_prints_texts_as_they_are(sweep, width):
    out = io.StringIO()
    table.show(sweep.record, results.collect(sweep, best=False), Console(file=out, width=width), of_best=False)
    lines = out.getvalue().splitlines()
    assert all(len(line) <= width for line in lines[1:5])
    assert "[red]kind-2" in out.getvalue() or width == 40
    assert "0.5 ± 0.14" in out.getvalue() and "tiny-4..5" in out.getvalue()
    assert "pruned at 4" in out.getvalue() and "tiny-2 failed: the loss [bold] exploded" in out.getvalue()


def test_the_picture_is_drawn_also_of_trials_that_have_failed(sweep, tmp_path):
    assert picture.draw(sweep.record, results.collect(sweep, best=False), tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
