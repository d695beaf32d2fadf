"""`launcher report`: files of a real run, damaged runs, and runs of a million steps."""

import fnmatch
import io
import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import support
from PIL import Image
from rich.console import Console
from support import report_runs

from launcher.config.errors import UserError
from launcher.tools.report import panels, run_data
from launcher.tools.report.report import report


def silent():
    return Console(file=io.StringIO())


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A folder with the report of a run on two ranks, and one of a classifier that was evaluated by the command. It
    alone shows that what training and `launcher evaluate` write is what a report reads."""
    folder = support.corpus(tmp_path_factory.mktemp("real"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        recipe = support.classification("labels", train__steps=24, evaluate={"every": 8}, sinks=["jsonl"])
        support.launcher("run", support.write(recipe), "--ranks", 2)
        support.launcher("evaluate", "runs/labels", "--ranks", 1)
        done = support.launcher("report", "runs/labels")
    assert done.stdout.startswith("runs/labels/report/index.html, and ")
    return folder / "runs" / "labels"


def test_the_page_of_a_real_run_has_everything_that_it_recorded(real):
    page = (real / "report" / "index.html").read_text(encoding="utf-8")
    for title in ("Loss and metrics", "Optimisation and throughput", "Where the time went", "Ranks", "Evaluations"):
        assert f">{title}</h2>" in page
    assert "most of any rank" in page and "Confusion matrix at step 24" in page and "goodput" in page
    assert "What could not be read" not in page


def test_the_times_of_ranks_are_recorded_every_ten_steps(real):
    steps = support.steps(real)
    assert [step for step, record in steps.items() if "slowest_rank" in record] == [11, 21]
    for record in (steps[11], steps[21]):
        assert 0 < record["rank_ms/least"] <= record["rank_ms/median"] <= record["rank_ms/most"]
        assert record["slowest_rank"] in (0, 1)


def test_confusions_have_examples_from_the_validation_data(real):
    found = json.loads((real / "report" / "evaluation-24.json").read_text())["report"]
    texts = {json.loads(line)["text"]: json.loads(line)["label"] for line in (real.parents[1] / "corpus.jsonl").open()}
    examples = found["examples"]
    assert examples
    for one in examples:
        assert one["truth"] != one["predicted"] and 0 < one["probability"] <= 1
        (label,) = {label for text, label in texts.items() if text.startswith(one["text"].removesuffix("..."))}
        assert label == one["truth"]
        assert found["confusion"][found["labels"].index(one["truth"])][found["labels"].index(one["predicted"])] > 0
    page = (real / "report" / "index.html").read_text(encoding="utf-8")
    assert examples[0]["text"][:100] in page


def test_pictures_open_and_are_not_blank(real):
    pictures = sorted((real / "report").glob("*.png"))
    names = {picture.stem for picture in pictures}
    assert names >= {"loss", "lr", "grad-norm", "tokens-per-second", "fill", "time-line-0", "ranks-0", "confusion-24"}
    for picture in pictures:
        with Image.open(picture) as image:
            assert 400 < image.width < 3200 and 200 < image.height < 3200, picture.name
            pixels = np.asarray(image.convert("RGB"))
            assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20, picture.name
            assert (pixels[:2] > 240).all(), picture.name  # a margin, on the light ground


FILES = ["metrics.jsonl", "ledger.jsonl", "jobs.jsonl", "roll_backs.json", "plan.json", "facts.json", "recipe.yaml",
         "environment.json", "report/evaluation-400.json"]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return report_runs.write(tmp_path_factory.mktemp("whole") / "run", restarts=True)


@pytest.mark.parametrize("damage", ["garbage", "wrong values", "folder", "missing"])
@pytest.mark.parametrize("file", FILES)
def test_of_a_damaged_run_the_rest_is_read(tmp_path, whole, file, damage):
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    (folder / file).unlink()
    if damage == "folder":
        (folder / file).mkdir()
    elif damage != "missing":
        (folder / file).write_text("\x00{[\n" if damage == "garbage" else '{"event": "x", "job": "", "step": "many"}\n')
    (run,) = run_data.read_all([run_data.find(str(folder))])
    ignored = damage == "missing" and file not in ("metrics.jsonl", "plan.json", "recipe.yaml")
    ignored |= (file, damage) in [
        ("ledger.jsonl", "garbage"), ("jobs.jsonl", "garbage"), ("plan.json", "wrong values"),
        ("environment.json", "wrong values"), ("recipe.yaml", "wrong values"), ("roll_backs.json", "wrong values"),
    ]  # fmt: skip
    assert any(file in problem for problem in run.problems) != ignored, run.problems
    assert (len(run.metrics.training.steps) == 400) == (file != "metrics.jsonl")
    assert (run.evaluation is not None) == ("evaluation" not in file)


def test_a_run_of_which_everything_is_damaged_has_a_page(tmp_path, whole):
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    for file in FILES:
        (folder / file).write_bytes(b"\xff\x00 {")
    report([str(folder)], None, silent())
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "What could not be read" in page and "Not in this report" in page
    assert all(f"{folder.name}/{file}" in page for file in ("plan.json", "facts.json", "report/evaluation-400.json"))


@pytest.mark.parametrize("steps", [50_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_the_page_of_a_long_run_is_small(tmp_path, steps):
    folder = report_runs.write(tmp_path / "long", steps=200)
    report_runs.metrics(folder, steps)
    with (folder / "metrics.jsonl").open("a") as out:
        out.write(json.dumps({"step": steps + 1, "loss": 77.5}) + "\n")
    report([str(folder)], None, silent())
    page = folder / "report" / "index.html"
    assert page.stat().st_size < 2_000_000
    assert "highest 77.5" in page.read_text(encoding="utf-8")


def test_a_name_for_the_page_and_its_pictures(tmp_path, whole):
    to = tmp_path / "new" / "look.html"
    report([str(whole), str(whole)], to, silent())
    names = {path.name for path in to.parent.iterdir()}
    assert "look.html" in names and "look-loss.png" in names
    assert all(name.startswith("look") for name in names)


@pytest.mark.parametrize(
    ("runs", "to", "what"),
    [
        (["nowhere"], None, "nowhere: no run is there"),
        (["RUN"], "page.txt", "not the name of a page"),
        (["RUN"], "folder.html", "a folder has this name"),
        (["RUN"], "file/page.html", "file"),
        (["RUN"] * 26, None, "at most 25"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, whole, runs, to, what):
    monkeypatch.chdir(tmp_path)
    Path("folder.html").mkdir()
    Path("file").write_text("")
    with pytest.raises(UserError, match=what):
        report([str(whole) if run == "RUN" else run for run in runs], Path(to) if to else None, silent())


def test_several_runs_have_a_page_in_the_current_folder(tmp_path, monkeypatch, whole):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, "other")
    report([str(whole), "other"], None, silent())
    assert Path("report/index.html").is_file() and Path("report/loss.png").is_file()


def test_the_template_is_a_part_of_the_package():
    """The wheel has all files below the package that git does not ignore."""
    root = Path(__file__).parents[3]
    build = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["packages"] == ["launcher"] and not build.keys() & {"exclude", "only-include"}
    for name in ("page.html.j2", "page.css"):
        assert (root / "launcher/tools/report" / name).is_file()
        assert not any(fnmatch.fnmatch(name, line) for line in (root / ".gitignore").read_text().split())


def test_spikes_are_marked_also_those_whose_steps_are_left_out(tmp_path):
    run = report_runs.write(tmp_path / "spiked", steps=40)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[4]["spike"] = 1
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    spike = {"step": 31, "first": 30, "loss": 9.0, "grad_norm": 9.0}
    (run / "roll_backs.json").write_text(json.dumps({"spikes": [spike]}))
    read = run_data.read_all([run_data.find(str(run))])
    for axis, scale in zip(panels.axes(read), (1, 5000, 0.25), strict=True):
        loss, *others = panels.loss_and_metrics(read, axis)
        assert loss.marks == pytest.approx([scale * lines[4]["step"], scale * 31])
        assert all(not other.marks for other in others)
    report([str(run)], None, silent())
    assert ">spike</text>" in (run / "report" / "index.html").read_text(encoding="utf-8")
