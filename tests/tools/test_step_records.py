"""Training records by step, of a file with resumes, damage and evaluations."""

import json

import pytest

from launcher.tools.step_records import StepRecords, relative_difference


def records(tmp_path, *entries):
    """The records of a file. An entry: (step, loss), a step of an evaluation, or a damaged line."""
    lines = []
    for entry in entries:
        if isinstance(entry, tuple):
            lines.append(json.dumps({"step": entry[0], "loss": entry[1]}))
        else:
            lines.append(entry if isinstance(entry, str) else json.dumps({"step": entry, "eval/loss": 1.0}))
    (tmp_path / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    return StepRecords(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ([[1, 2, 3]], [10, 20, 30]),
        ([[1, 2, 3, 4], [3, 4, 5]], [10, 20, 31, 41, 51]),
        ([[1, 2, 3], [4, 5]], [10, 20, 30, 41, 51]),
        ([[1, 2, 3, 4, 5, 6], [5, 6, 7], [3, 4]], [10, 20, 32, 42, 51, 61, 71]),
        ([[1, 2, 3, 4, 5, 6], [3, 4], [4, 5, 6]], [10, 20, 31, 42, 52, 62]),
        ([[1, 2], [1]], [11, 20]),
        ([[3, 4], [1, 2, 3]], [11, 21, 31, 40]),
        ([], []),
    ],
)
def test_the_later_line_of_a_step_counts(tmp_path, starts, expected):
    entries = [(step, step * 10 + start) for start, steps in enumerate(starts) for step in steps]
    found = records(tmp_path, *entries)
    assert [record["loss"] for record in found] == expected
    assert found.last == (expected[-1] // 10 if expected else 0)
    assert found.of(99) is None and (not expected or found.of(found.last)["loss"] == expected[-1])


def test_damaged_lines_are_counted_and_left_out(tmp_path):
    found = records(tmp_path, (1, 1.0), "{", 1, (2, 2.0), '{"step": "x"}', "x" * (9 << 20), (3, 3.0), 3)
    assert [record["step"] for record in found] == [1, 2, 3]
    assert found.damaged == 3


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    records(tmp_path, (1, 1.0))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "loss": 1')
    found = StepRecords(tmp_path / "metrics.jsonl")
    assert ([record["step"] for record in found], found.damaged) == ([1], 0)
    assert list(StepRecords(tmp_path / "none.jsonl")) == []


def test_differences_are_relative():
    assert relative_difference(1.0, 1.0) == 0 and relative_difference(None, None) == 0
    assert relative_difference(2.0, 1.0) == 0.5 and relative_difference(1.0, None) == float("inf")
