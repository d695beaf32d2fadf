"""`launcher evaluate`: tables for a terminal, and report files."""

import json
from pathlib import Path

import numpy as np
import pytest
import support
from PIL import Image

from launcher.tools import confusion_display, tables


@pytest.fixture(scope="module")
def told(sorter):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(sorter)
        return support.launcher("evaluate", "runs/sorter", "--ranks", 1).stdout


def test_the_report_has_each_class_with_its_support_and_what_it_is_taken_for(told, in_sorter):
    found = json.loads((in_sorter / "report" / "evaluation-40.json").read_text())
    labels = [json.loads(line)["label"] for line in Path("held.jsonl").read_text().splitlines()]
    classes = found["report"]["classes"]
    assert {name: values["support"] for name, values in classes.items()} == {n: labels.count(n) for n in set(labels)}
    lines = [line.split() for line in told.splitlines()]
    assert ["class", "precision", "recall", "f1", "support"] in lines
    for name, values in classes.items():
        scores = [f"{values[score]:.4f}" for score in ("precision", "recall", "f1")]
        assert [name, *scores, f"{values['support']:.0f}"] in lines
    assert ["truth", "few", "many", "some"] in lines
    for name, row in zip(found["report"]["labels"], found["report"]["confusion"], strict=True):
        own = found["report"]["labels"].index(name)
        assert [name, *(str(n) if n or place == own else "·" for place, n in enumerate(row))] in lines


def test_the_metrics_are_those_of_the_run_and_stand_in_the_file(told, in_sorter):
    found = json.loads((in_sorter / "report" / "evaluation-40.json").read_text())
    expected = support.evaluations(in_sorter)[40]
    assert found["metrics"] == expected
    assert found["step"] == 40
    assert set(found["baseline"]) == {"majority_class"}
    assert told.splitlines()[0] == "checkpoint of step 40"
    assert "runs/sorter/report/evaluation-40.json and runs/sorter/report/confusion-40.png" in told


def test_the_picture_is_a_png(told, in_sorter):
    with Image.open(in_sorter / "report" / "confusion-40.png") as picture:
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(2**24)) > 10


def test_as_json_the_metrics_alone_are_printed(in_sorter):
    done = support.launcher("evaluate", "runs/sorter", "--ranks", 1, "--checkpoint", 20, "--json")
    assert json.loads(done.stdout)["step"] == 20
    assert (in_sorter / "report" / "evaluation-20.json").is_file()


def counted(classes, seed=0):
    draw = np.random.default_rng(seed)
    counts = np.diag(draw.integers(5, 90, classes)) + (draw.random((classes, classes)) < 0.1) * 3
    return counts.tolist(), [f"label-of-the-class-{n}" for n in range(classes)]


@pytest.mark.parametrize("classes", [2, 5, 12, 50, 300])
def test_the_table_fits_whatever_the_number_of_classes(printed, classes):
    lines = printed(lambda console: confusion_display.show(*counted(classes), console))
    assert all(len(line) <= 80 for line in lines)
    assert not any("…" in line for line in lines)
    assert ("confusions" in lines[-1]) == (classes > 12)


def test_of_many_classes_the_most_frequent_confusions_are_printed(printed):
    counts, labels = counted(50)
    counts[7][3], counts[2][9] = 70, 60
    lines = printed(lambda console: confusion_display.show(counts, labels, console))
    assert lines[1].split()[:3] == [labels[7], labels[3], "70"]
    assert lines[2].split()[:3] == [labels[2], labels[9], "60"]
    assert lines[1].split()[3] == f"{70 / sum(counts[7]):.1%}"


def test_of_very_many_classes_the_worst_are_printed(printed):
    report = {f"c{n}": {"f1": n / 100, "support": 4} for n in range(100)}
    lines = printed(lambda console: tables.print_classes(report, console))
    assert [line.split()[0] for line in lines[1:-1]] == [f"c{n}" for n in range(10)]
    assert lines[-1] == "the 10 worst of 100 classes"


@pytest.mark.parametrize("classes", [2, 60, 300])
def test_a_picture_has_a_size_for_a_screen(tmp_path, classes):
    confusion_display.draw(*counted(classes), "title", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert 300 < min(picture.size) <= max(picture.size) < 3200
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_label_that_looks_like_mathematics_is_a_label(tmp_path):
    confusion_display.draw([[3, 1], [0, 4]], ["$a_$", r"$\frac$"], "a $_$ title", tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
