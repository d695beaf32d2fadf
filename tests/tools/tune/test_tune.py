"""`launcher tune`: it finds a setting that never changes the trajectory, and `run` and `plan` use it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import support

from launcher.config import load
from launcher.config.errors import UserError
from launcher.config.recipe import PERFORMANCE, trajectory
from launcher.prepare import run_setup
from launcher.tools.tune import tune as tool
from launcher.tools.tune import tuned_file
from launcher.tuning import search, setting
from launcher.tuning.journal import Measured, Trial
from launcher.tuning.results import Results
from launcher.tuning.setting import Setting

FILE = Path("tuned/tiny-local.yaml")
LIMITED = """
import traceback
import torch
from launcher.tasks import tabular_regression

class Config(tabular_regression.Config):
    kind: str

class Task(tabular_regression.Task):
    def loss(self, model, batch):
        trains = any(frame.name == "_add_up" for frame in traceback.extract_stack())
        if len(batch["labels"]) > 4 and trains:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().loss(model, batch)
"""


def tune(*arguments, code=0):
    return support.launcher("tune", *arguments, code=code)


def write_tuned(recipe, overrides=(), ranks=1, **keys):
    """A tuned file as `launcher tune` writes it, for these ranks."""
    loaded, profile = load.recipe(recipe, overrides), load.local_cluster()
    tuned_file.save(FILE, "by a test", keys, tuned_file.conditions(loaded.value, profile, ranks))


WRITTEN = {"train.max_tokens": 192}
"""Another file than an untuned recipe has: to see what becomes of it."""


def kept(recipe, *overrides, fastest=None, ranks=1):
    """What becomes of the file after a made-up search: the recipe as written, and a setting that takes half as long."""
    loaded = load.recipe(recipe, overrides)
    written, of_file = Setting.of(loaded.value), Setting.of(loaded.without(setting.KEYS).value)
    results = Results(written, 1e-3)
    for one, seconds in ((written, 1.0), *([(of_file.but(**fastest), 0.5)] if fastest is not None else [])):
        trial = Trial(setting=one, first=1, count=1)
        results.add(trial, Measured(seconds=[seconds], losses=[1.0], data=["0"], tokens=[10]))
    return tool.keep(loaded, load.local_cluster(), ranks, of_file, results)


def planned(recipe, *arguments):
    return json.loads(support.launcher("plan", recipe, "--ranks", 1, "--json", *arguments).stdout)


def test_every_key_of_a_setting_is_one_of_speed():
    for key in setting.KEYS:
        assert key in PERFORMANCE


def test_settings_agree_in_losses_and_digests_and_keep_the_trajectory(workspace):
    """Real ranks measure real settings, under an optimiser with two learning rates; the run then uses the file and
    keeps the digests of an untuned one. 10 s."""
    recipe = support.write(support.mlm(train__max_tokens=32, train__global_batch=4))
    muon = "optimizer={kind: muon, lr: 0.001, adam_lr: 0.3}"
    found = json.loads(tune(recipe, muon, "--ranks", 2, "--settings", 5, "--json").stdout)
    rows = found["settings"]
    labels = [row["setting"] for row in rows]
    assert "as written" in labels and any("max_tokens" in label for label in labels)
    assert any("padding_free" in label for label in labels)
    by_label = {row["setting"]: row for row in rows}
    base = load.recipe(recipe, [muon]).value
    for row in rows:
        assert not row["wrong"], row
        assert row["data"] and set(row["data"]) <= set(by_label["as written"]["data"])
        changed = [f"{key}={json.dumps(value)}" for key, value in row["changes"].items()]
        assert trajectory(load.recipe(recipe, [muon, *changed]).value) == trajectory(base)
    assert not Path("runs").exists()
    assert [row for row in rows if row["best"]]
    write_tuned(recipe, ranks=2, **{"train.max_tokens": 96, "train.padding_free": False})
    support.launcher("run", recipe, "--ranks", 2)
    support.launcher("run", recipe, "--ranks", 2, "--untuned", "name=plain")
    tuned, plain = ([*support.steps(name).values()] for name in ("tiny", "plain"))
    assert [step["data"] for step in tuned] == [step["data"] for step in plain]
    assert [step["loss"] for step in tuned] == pytest.approx([step["loss"] for step in plain], rel=1e-5)
    assert "max_tokens: 96" in Path("runs/tiny/recipe.yaml").read_text()
    assert "max_tokens: 32" in Path("runs/plain/recipe.yaml").read_text()


def test_the_fastest_is_written_and_a_recipe_that_is_not_beaten_removes_the_file_of_its_conditions(workspace):
    recipe = support.write(support.mlm())
    assert kept(recipe, fastest={"max_tokens": 192, "padding_free": False}) == tool.Kept(FILE)
    note = planned(recipe)["notes"][0]
    assert note.startswith(f"{FILE} sets train.max_tokens=192 (the recipe: 96), train.padding_free=false")
    for overrides, ranks in ((["train.precision=bf16"], 1), (["train.global_batch=6"], 1), ([], 2)):
        assert kept(recipe, *overrides, ranks=ranks) == tool.Kept() and FILE.exists()  # measured otherwise
    assert kept(recipe) == tool.Kept(removed=True) and not FILE.exists()
    assert kept(recipe) == tool.Kept()
    FILE.write_text("set: [\n")
    assert kept(recipe) == tool.Kept() and FILE.exists()


def test_keys_of_the_command_line_are_in_the_file_that_is_used_without_them(workspace):
    recipe = support.write(support.mlm())
    checkpointed = "train.activation_checkpointing=layers"
    fastest = {"activation_checkpointing": "layers", "max_tokens": 192}
    assert kept(recipe, checkpointed, fastest=fastest).file == FILE
    note = planned(recipe)["notes"][0]
    assert "train.max_tokens=192" in note and checkpointed in note
    whole = 'train={"activation_checkpointing": "layers", "seed_of_nothing": 1}'
    with pytest.raises(UserError, match="seed_of_nothing"):  # only keys of speed are taken out
        load.recipe(recipe, [whole])
    together = 'train={"activation_checkpointing": "layers", "steps": 4}'
    plain = load.recipe(recipe, [together, "strategy=fsdp"]).without(setting.KEYS).value
    assert (plain.train.activation_checkpointing, plain.train.steps, plain.strategy.kind) == ("none", 4, "ddp")

    before = FILE.read_text()
    assert kept(recipe, checkpointed) == tool.Kept() and FILE.read_text() == before  # not beaten
    assert kept(recipe, checkpointed, fastest={}) == tool.Kept() and FILE.read_text() == before  # by the file itself


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(workspace):
    recipe = support.write(support.small())
    FILE.parent.write_text("")
    refused = tune(recipe, "--ranks", 1, code=2)
    assert refused.stderr.startswith("the tuned file: tuned cannot be written: it is a file, not a folder (")
    assert "tokens/s" not in refused.stderr


def test_the_table_is_shown_if_the_file_cannot_be_written_at_last(workspace, capsys):
    recipe = support.write(support.mlm())
    FILE.mkdir(parents=True)
    what = kept(recipe, fastest={"max_tokens": 192})
    assert what.file is None and what.problem.startswith(f"{FILE}: cannot be written: ")
    loaded = load.recipe(recipe).value
    written = Setting.of(loaded)
    results = Results(written, 1e-3)
    for one, seconds in ((written, 1.0), (written.but(max_tokens=192), 0.5)):
        measured = Measured(seconds=[seconds], losses=[1.0], data=["0"], tokens=[10])
        results.add(Trial(setting=one, first=1, count=1), measured)
    space = search.Space(
        budget=10, begun=0, written=written, least_tokens=32, most_tokens=192, tolerance=1e-3
    )  # fmt: skip
    plan = run_setup.dry_run(load.recipe(recipe), load.local_cluster(), 1)
    for as_json in (False, True):
        with pytest.raises(UserError, match=f"^{FILE}: cannot be written"):
            tool.report(tool.Tuned(space, results, plan, 3.0, written, what), as_json)
        shown = capsys.readouterr().out
        assert "max_tokens=192" in shown and "2.0" in shown


def test_a_grid_does_not_use_the_file(workspace):
    """Its points may change the conditions."""
    recipe = support.write(support.mlm())
    profile = {"name": "lab", "kind": "slurm", "nodes": 1, "device": "cpu", "devices_per_node": 1, "slurm": {"time": 9}}
    support.write({**profile, "memory_per_device": 8}, "lab.yaml")
    support.write({"train.global_batch": [6, 12]}, "grid.yaml")
    cluster, file = load.cluster("lab.yaml").value, Path("tuned/tiny-lab.yaml")
    tuned_file.save(file, "by a test", WRITTEN, tuned_file.conditions(load.recipe(recipe).value, cluster, None))
    submit = ("submit", recipe, "--cluster", "lab.yaml", "--dry-run")
    assert f"{file} sets train.max_tokens=192" in " ".join(support.launcher(*submit).stderr.split())
    of_grid = " ".join(support.launcher(*submit, "--grid", "grid.yaml").stderr.split())
    assert f"{file} is ignored (the points of a grid may have other conditions)" in of_grid


def test_what_does_not_fit_is_a_line_of_the_table(workspace):
    support.plugin("limited", LIMITED)
    train = {"global_batch": 16, "steps": 6, "precision": "fp64", "max_tokens": 2}
    recipe = support.write(support.small(task__kind="own.limited", train=train))
    rows = json.loads(tune(recipe, "--ranks", 2, "--settings", 4, "--json").stdout)["settings"]
    wrong = {row["setting"]: row["wrong"] for row in rows}
    assert wrong["as written"] == "" and wrong["max_tokens=4"] == ""
    assert wrong["max_tokens=8"] == "does not fit into memory"


def test_the_plan_shows_the_keys_and_the_command_line_replaces_them(workspace):
    recipe = support.write(support.mlm())
    write_tuned(recipe, **{"train.max_tokens": 192, "train.padding_free": False})
    note = planned(recipe)["notes"][0]
    assert note.startswith(f"{FILE} sets train.max_tokens=192 (the recipe: 96), train.padding_free=false")
    assert planned(recipe, "train.max_tokens=64")["notes"][0].startswith(f"{FILE} sets train.padding_free=false;")
    assert planned(recipe, "--untuned")["notes"][0] == f"{FILE} is ignored (--untuned)"
    other = planned(recipe, "train.global_batch=6", "model.num_hidden_layers=1")["notes"][0]
    assert "is not used" in other and "global_batch 12, which is 6 here" in other and "another model" in other


def test_another_key_is_refused_with_its_line(workspace):
    recipe = support.write(support.mlm())
    write_tuned(recipe, **{"train.max_tokens": -3, "optimizer.lr": 0.1})
    lines = FILE.read_text().splitlines()
    place = next(number for number, line in enumerate(lines, start=1) if "lr:" in line)
    refused = support.launcher("plan", recipe, "--ranks", 1, code=2).stderr
    assert f"{FILE}:{place}: optimizer.lr: " in refused
    assert f"{FILE}:{place}: optimizer.lr: " in support.launcher("run", recipe, "--ranks", 1, code=2).stderr
    write_tuned(recipe, **{"train.max_tokens": -3})
    assert f"{FILE}:4: train.max_tokens: " in support.launcher("plan", recipe, "--ranks", 1, code=2).stderr


def test_code_that_the_recipe_does_not_name_is_refused_and_not_imported(workspace):
    """Whoever can write the file could otherwise run code as the user who trains."""
    recipe = support.write(support.mlm())
    Path("planted.py").write_text("raise SystemExit('imported')\n")
    write_tuned(recipe, **{"strategy.kind": "planted.strategy"})
    refused = support.launcher("plan", recipe, "--ranks", 1, code=2).stderr
    assert f"{FILE}:4: strategy.kind: a tuned file names no code" in refused


def test_a_budget_that_is_none_is_refused(workspace):
    recipe = support.write(support.mlm())
    for text in ("soon", "3", "0m"):
        assert f"--budget {text}: " in tune(recipe, "--budget", text, code=2).stderr


def test_a_killed_search_leaves_the_earlier_file(workspace):
    recipe = support.write(support.small())
    write_tuned(recipe, **{"train.workers": 0})
    before = FILE.read_text()
    command = [sys.executable, "-m", "launcher", "tune", recipe, "--ranks", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL) as search:
        while "tokens/s" not in search.stderr.readline():
            assert search.poll() is None
        search.send_signal(signal.SIGKILL)
    time.sleep(0.1)
    assert FILE.read_text() == before and [*FILE.parent.iterdir()] == [FILE] and not Path("runs").exists()
