"""What a sweep that goes on may change, and what it refuses."""

import pytest

from launcher.config.errors import UserError
from launcher.tools.sweep import record
from launcher.tools.sweep.record import Record, RunEnd, Sweep


def wanted(*lrs, **changes):
    known = {
        "name": "tiny", "method": "grid", "metric": "loss", "direction": "min", "space": ["lr"], "seeds": [3, 4],
        "trials": [{"lr": lr} for lr in lrs],
    }  # fmt: skip
    return Record(**{**known, **changes})


@pytest.fixture
def begun(tmp_path):
    return Sweep(tmp_path, wanted(0.1, 0.2)).with_end("tiny-0", RunEnd(state="done"))


def test_the_same_sweep_goes_on(begun):
    assert record.begin(begun.folder, wanted(0.1, 0.2)) == (begun, "")
    assert begun.run_names(1) == ["tiny-2", "tiny-3"]


def test_more_points_are_added_behind_and_keep_what_is_done(begun):
    found, note = record.begin(begun.folder, wanted(0.05, 0.1, 0.2, 0.3))
    assert [trial["lr"] for trial in found.record.trials] == [0.1, 0.2, 0.05, 0.3]
    assert found.record.ended == begun.record.ended and note.endswith("extended by 2 trials to 4")


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        (wanted(0.1), "has trials that are not asked for any more: lr=0.2"),
        (wanted(0.1, 0.2, seeds=[3]), "begun with the seeds"),
        (wanted(0.1, 0.2, metric="f1", direction="max"), r"begun with the metric loss \(min\), and f1 \(max\)"),
        (wanted(0.1, 0.2, method="random"), "begun with the method grid, and random is asked for"),
    ],
)
def test_another_sweep_is_refused(begun, asked, what):
    with pytest.raises(UserError, match=what + r".*name=OTHER begins another sweep"):
        record.begin(begun.folder, asked)


def test_other_ranges_are_refused(tmp_path):
    Sweep(tmp_path, wanted(method="optuna", space=["lr=log:1:2"])).with_trials([{"lr": 1.5}])
    with pytest.raises(UserError, match="begun with the values lr=log:1:2, and lr=log:1:3 are asked for"):
        record.begin(tmp_path, wanted(method="optuna", space=["lr=log:1:3"]))


def test_a_damaged_record_is_one_line(begun):
    begun.file.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        record.begin(begun.folder, wanted(0.1))
