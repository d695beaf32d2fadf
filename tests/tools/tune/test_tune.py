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
from launcher.config.recipe import PERFORMANCE, trajectory
from launcher.tools.tune import tuned_file
from launcher.tuning import setting

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


def planned(recipe, *arguments):
    return json.loads(support.launcher("plan", recipe, "--ranks", 1, "--json", *arguments).stdout)


def test_every_key_of_a_setting_is_one_of_speed():
    for key in setting.KEYS:
        assert key in PERFORMANCE


def test_settings_agree_in_losses_and_digests_and_keep_the_trajectory(workspace):
    """Real ranks measure real strategies; the run then uses the file and keeps the digests of an untuned one. 20 s."""
    recipe = support.write(support.mlm(train__max_tokens=32, train__global_batch=24))
    found = json.loads(tune(recipe, "--ranks", 2, "--budget", "30s", "--json").stdout)
    rows = found["settings"]
    labels = [row["setting"] for row in rows]
    assert "as written" in labels and any("max_tokens" in label for label in labels)
    assert any("padding_free" in label for label in labels)
    by_label = {row["setting"]: row for row in rows}
    base = load.recipe(recipe).value
    for row in rows:
        assert not row["wrong"], row
        assert row["data"] and set(row["data"]) <= set(by_label["as written"]["data"])
        changed = [f"{key}={json.dumps(value)}" for key, value in row["changes"].items()]
        assert trajectory(load.recipe(recipe, changed).value) == trajectory(base)
    assert not Path("runs").exists()
    assert [row for row in rows if row["best"]]
    if FILE.exists():
        assert not [key for key in found["set"] if not key.startswith(setting.KEYS)]

    write_tuned(recipe, ranks=2, **{"train.max_tokens": 96, "train.padding_free": False})
    support.launcher("run", recipe, "--ranks", 2)
    support.launcher("run", recipe, "--ranks", 2, "--untuned", "name=plain")
    tuned, plain = ([*support.steps(name).values()] for name in ("tiny", "plain"))
    assert [step["data"] for step in tuned] == [step["data"] for step in plain]
    assert [step["loss"] for step in tuned] == pytest.approx([step["loss"] for step in plain], rel=1e-5)
    assert "max_tokens: 96" in Path("runs/tiny/recipe.yaml").read_text()
    assert "max_tokens: 32" in Path("runs/plain/recipe.yaml").read_text()


def test_what_does_not_fit_is_a_line_of_the_table(workspace):
    support.plugin("limited", LIMITED)
    train = {"global_batch": 24, "steps": 6, "precision": "fp64", "max_tokens": 2}
    recipe = support.write(support.small(task__kind="own.limited", train=train))
    rows = json.loads(tune(recipe, "--ranks", 2, "--budget", "25s", "--json").stdout)["settings"]
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
