"""`launcher diff`: resumed and resharded runs are the same to rounding; of others, the first step and the cause."""

import json
import shutil
from pathlib import Path

import pytest
import support
from rich.console import Console
from support import changed_row

from launcher.config.errors import UserError
from launcher.tools.diff import diff
from launcher.tools.seen import run_data, step_samples


@pytest.fixture
def diff_json(in_place, capsys):
    def call(one, other):
        code = diff.diff(one, other, True)
        return json.loads(capsys.readouterr().out), code

    return call


@pytest.fixture
def edited(in_place, tmp_path):
    """A function that copies a run, with edited records and recipe."""

    def make(record=lambda step: {}, recipe="", name="edited"):
        folder = Path(shutil.copytree("runs/whole", tmp_path / name))
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        changed = [line | record(line["step"]) for line in lines]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
        old, _, new = recipe.partition(" -> ")
        text = (folder / "recipe.yaml").read_text()
        assert old in text
        (folder / "recipe.yaml").write_text(text.replace(old, new, 1))
        return str(folder)

    return make


def test_a_killed_resumed_and_resharded_run_is_the_same_to_rounding(diff_json):
    found, code = diff_json("runs/whole", "runs/hurt")
    assert (code, found["same"], found["first"], found["cause"]) == (0, True, None, None)
    assert found["steps"] == {"count": 14, "begin": 1, "end": 14, "last": [14, 14]}
    assert found["differences"]["data"]["first"] is None
    assert 0 < found["differences"]["loss"]["largest"] < 1e-5
    (ranks,) = (one["values"] for one in found["settings"] if one["key"] == "ranks")
    assert ranks[0] == "1" and ranks[1].startswith("2, then 1 from step ") and ", then 3 from step" in ranks[1]
    assert {one["section"] for one in found["settings"]} == {"performance", "machine"}


def test_a_changed_row_is_found_at_its_first_step(diff_json):
    """The first step whose record differs is the first in which the changed row's sample occurs; the row is named."""
    found, code = diff_json("runs/whole", "runs/other")
    sample = changed_row.changed_line() - 1
    data = run_data.of("runs/whole")
    first = next(step for step in range(1, 15) if sample in step_samples.of(data, step).ids)
    assert first > 4
    assert (code, found["first"], found["differences"]["data"]["first"]) == (1, first, first)
    place = f"corpus.txt:{sample + 1} / other.txt:{sample + 1}"
    assert found["cause"] == f"the data has changed: sample {sample}, {place}"
    assert (found["samples"]["differing"], found["samples"]["first"], found["samples"]["row"]) == (1, sample, place)
    assert found["differences"]["loss"]["first"] == first and found["differences"]["lr"]["first"] is None


@pytest.mark.parametrize(
    ("record", "recipe", "first", "cause"),
    [
        (lambda step: {"data": "0" * 16}, "seed: 3 -> seed: 4", 1, "the seed, which orders the samples: seed 3 / 4"),
        (lambda step: {"data": f"{step:016x}"}, "mask_rate: 0.15 -> mask_rate: 0.4", 1,
         "the masks, or other random changes of samples: task.mask_rate 0.15 / 0.4"),
        (lambda step: {"lr": 0.002} if step > 3 else {}, "kind: constant -> kind: linear", 4,
         "the learning rate: schedule.kind constant / linear"),
        (lambda step: {"loss": 9.0}, "hidden_size: 16 -> hidden_size: 32", 1,
         "the model or how it computes: model.hidden_size 16 / 32"),
        (lambda step: {"loss": 9.0 if step > 6 else 4.0}, "weight_decay: -> weight_decay: 0.5 #", 1, "the recipe: "),
        (lambda step: {"grad_norm": 9.0} if step > 6 else {}, "precision: fp32 -> precision: bf16", 7, "the recipe: "),
        (lambda step: {"loss": 9.0} if step > 6 else {}, "", 7, "nothing that is recorded differs: an operation of "),
        (lambda step: {"loss": None, "left_out": 1} if step == 6 else {}, "", 6, "step 6 is left out in one run alone"),
    ],
    ids=["seed", "masks", "rate", "model", "optimizer", "precision", "nothing", "left out"],
)  # fmt: skip
def test_likely_causes(diff_json, edited, record, recipe, first, cause):
    found, code = diff_json("runs/whole", edited(record, recipe))
    assert (code, found["first"]) == (1, first)
    assert found["cause"].startswith(cause), found["cause"]


def test_other_versions_and_damage(diff_json, edited):
    folder = Path(edited(lambda step: {"loss": 9.0} if step > 6 else {}))
    environment = json.loads((folder / "environment.json").read_text())
    environment["versions"]["torch"] = "1.0"
    (folder / "environment.json").write_text(json.dumps(environment))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("{broken\n")
    found, _ = diff_json("runs/whole", str(folder))
    assert found["cause"].startswith("other versions: torch ") and found["cause"].endswith(" / 1.0")
    assert found["damaged"] == [0, 1]


def test_without_the_cache_no_row_is_known(diff_json, monkeypatch, tmp_path):
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "empty"))
    found, code = diff_json("runs/whole", "runs/other")
    assert code == 1 and found["samples"] is None and "the first row is not known" in found["cause"]


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_a_terminal(in_place, edited, width):
    """Texts of runs are printed as they are, without markup and control characters."""
    folder = edited(recipe="kind: constant -> kind: linear", name="a[red]b")
    environment = Path(folder) / "environment.json"
    environment.write_text(json.dumps(json.loads(environment.read_text()) | {"host": "x[bold]\x1b[31m" * 9}))
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as text:
        diff._show(diff.compare(run_data.of("runs/whole"), run_data.of(folder)), console)
    assert max(map(len, text.get().splitlines())) <= width
    assert "a[red]b" in text.get() and "x[bold]" in text.get() and "\x1b" not in text.get()
    assert "the same to rounding, at every step (fp32 may differ by 1e-04)" in text.get()


def test_what_is_no_run_is_bad_input(in_place):
    done = support.launcher("diff", "runs/whole", "runs/none", code=2)
    assert done.stderr == "runs/none: no run is there (a run folder is named, such as runs/quickstart-pretrain)\n"
    with pytest.raises(UserError, match=r"runs/no: no run.*\n.*runs/none: no run"):
        diff.diff("runs/no", "runs/none", False)
