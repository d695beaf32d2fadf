"""A history tells which ratio has become worse, between records of one machine."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import _history
from benchmarks._history import Record
from benchmarks.pairs import Comparison, Measurement

ONE = Record(
    "mlm", "mlm bert-mini", "aaa", "2026-01-01T00:00:00+00:00", "a machine, 2 cores", {"torch": "2.13"}, "tokens/s",
    True, 5, {"launcher": 9000.0, "Trainer": 2800.0}, {"Trainer": 3.2, "torch DDP": 2.8},
)  # fmt: skip


def test_a_ratio_may_lose_five_percent() -> None:
    assert _history.regressions(ONE, replace(ONE, ratios={"Trainer": 3.2 * 0.951, "torch DDP": 9.0})) == []
    (worse,) = _history.regressions(ONE, replace(ONE, commit="bbb", ratios={"Trainer": 3.2 * 0.949, "torch DDP": 2.8}))
    assert (worse.peer, worse.commits) == ("Trainer", ("aaa", "bbb"))
    assert "5% worse, 3.20 before and 3.04 now (commits aaa and bbb)" in worse.sentence()


def test_of_seconds_a_higher_ratio_is_worse() -> None:
    seconds = replace(ONE, unit="s", higher_is_better=False)
    assert _history.regressions(seconds, replace(seconds, ratios={"Trainer": 1.0})) == []
    (worse,) = _history.regressions(seconds, replace(seconds, ratios={"Trainer": 3.2 * 1.06}))
    assert worse.peer == "Trainer"


def test_the_medians_do_not_matter_and_a_peer_that_one_record_lacks_does_not_either() -> None:
    slow = replace(ONE, medians={"launcher": 90.0, "Trainer": 28.0}, ratios={"Trainer": 3.2, "accelerate": 0.1})
    assert _history.regressions(ONE, slow) == []


def test_the_latest_two_records_of_a_machine_and_title_are_compared(tmp_path: Path) -> None:
    records = [
        replace(ONE, commit="1"), replace(ONE, commit="x", machine="another"), replace(ONE, commit="2"),
        replace(ONE, commit="y", title="mlm bert-base"), replace(ONE, commit="3"),
    ]  # fmt: skip
    file = tmp_path / "history.jsonl"
    _history.append(file, records[:2])
    _history.append(file, records[2:])
    assert _history.read(file) == records
    assert [(a.commit, b.commit) for a, b in _history.latest_pairs(records)] == [("2", "3")]


def test_compare_ends_with_1_for_a_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "history.jsonl"
    assert command.main(["compare", str(file)]) == 2
    assert "no such file" in capsys.readouterr().err
    _history.append(file, [ONE])
    assert command.main(["compare", str(file)]) == 0
    assert "no benchmark has two records of one machine yet" in capsys.readouterr().out
    _history.append(file, [replace(ONE, commit="bbb")])
    assert command.main(["compare", str(file)]) == 0
    assert "no ratio of 1 comparison" in capsys.readouterr().out
    _history.append(file, [replace(ONE, commit="ccc", ratios={"Trainer": 2.0})])
    assert command.main(["compare", str(file)]) == 1
    assert capsys.readouterr().out.startswith("mlm: mlm bert-mini: the ratio to Trainer is 38% worse, 3.20 before")
    file.write_text(file.read_text() + "{}\n")
    assert command.main(["compare", str(file)]) == 2
    assert f"{file}:4: " in capsys.readouterr().err


def test_a_record_describes_commit_machine_and_versions() -> None:
    sides = {"launcher": [Measurement(2.0, {"fill": 0.5})], "Trainer": [Measurement(1.0)]}
    made = _history.record("mlm", Comparison("a title", "tokens/s", True, sides))
    assert (made.benchmark, made.title, made.pairs, made.ratios) == ("mlm", "a title", 1, {"Trainer": 2.0})
    assert made.figures["launcher"] == {"fill": 0.5}
    assert " cores" in made.machine
    assert {"torch", "transformers"} <= set(made.versions)
