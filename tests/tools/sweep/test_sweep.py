"""`launcher sweep` as a user types it: real ranks, kills, Ctrl-C, failures, and what is left at the end."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import support
from support import killed_run

from launcher.config import load
from launcher.config.recipe import trajectory

GRID = ("--grid", "optimizer.lr=1e-3,1e-1,1e-2", "--grid", "train.global_batch=12,24", "--ranks", 1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a recipe of which a step takes a while."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    return tmp_path


def write(folder):
    support.plugin("slow", support.SLOW)
    recipe = support.small(
        "whole", train__steps=8, train__precision="fp64", data__validation={"fraction": 0.2},
        evaluate={"metric": "mse", "every": 2}, checkpoint={"every": 2}, sinks=["jsonl", {"kind": "own.slow"}],
    )  # fmt: skip
    support.write(recipe)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder and the output of a grid of six that nothing happened to."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write(folder)
        patch.setenv("COLUMNS", "80")
        yield folder, support.launcher("sweep", "recipe.yaml", *GRID, timeout=600).stdout


def values(run):
    """The metric at each evaluated step."""
    return {step: record["eval/mse"] for step, record in support.evaluations(run).items()}


def kill_at(run, step, *arguments):
    """Start the sweep, and kill all its processes when a run has reached a step."""
    process = support.start("sweep", "recipe.yaml", *arguments)
    support.wait_for_step(run, step, process, timeout=300)
    assert os.getpgid(process.pid) == process.pid
    support.kill_group(process)


def test_six_trials_are_compared_and_the_best_is_marked(whole, monkeypatch):
    folder, said = whole
    monkeypatch.chdir(folder)
    lines = said.splitlines()
    assert all(len(line) <= 80 for line in lines)
    rows = [line.split() for line in lines if line.startswith("whole-")]
    reached = {f"whole-{n}": values(f"runs/whole-{n}")[8] for n in range(6)}
    assert [row[0] for row in rows] == sorted(reached, key=reached.get)
    assert [row[3] for row in rows] == [f"{reached[row[0]]:.4g}" for row in rows]
    assert [row[4:] for row in rows] == [["best"], [], [], [], [], []]
    assert Path("sweeps/whole/sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "launcher run sweeps/whole/best.yaml" in said


def test_the_recipe_of_the_best_trial_trains_as_it_did(whole, monkeypatch):
    folder, said = whole
    monkeypatch.chdir(folder)
    best = said.partition("best: ")[2].partition(":")[0]
    (there, here) = (
        trajectory(load.recipe(file).value) for file in (f"runs/{best}/recipe.yaml", "sweeps/whole/best.yaml")
    )
    assert {**here, "name": best} == there
    support.launcher("run", "sweeps/whole/best.yaml", "--ranks", 1)
    killed_run.same_end(Path("runs/whole-best"), Path(f"runs/{best}"))


def test_killed_twice_it_ends_with_the_same_six_results(whole, folder, monkeypatch):
    """It alone proves that a sweep goes on after kills at any trial, and that nothing is trained twice."""
    name = "name=killed"
    kill_at("runs/killed-1", 3, name, *GRID)
    before = support.tree("runs/killed-0")
    kill_at("runs/killed-3", 5, name, *GRID)
    said = support.launcher("sweep", "recipe.yaml", name, *GRID, timeout=600).stdout
    assert support.tree("runs/killed-0") == before
    for n in range(6):
        killed_run.same_end(Path(f"runs/killed-{n}"), whole[0] / f"runs/whole-{n}")
        assert values(f"runs/killed-{n}") == values(whole[0] / f"runs/whole-{n}")
    rows = [[line.split() for line in text.splitlines() if "-" in line.split()[0]] for text in (said, whole[1])]
    assert [row[1:] for row in rows[0]] == [row[1:] for row in rows[1]]
    again = support.launcher("sweep", "recipe.yaml", name, *GRID)
    assert again.stdout == said and "lr" not in again.stderr


def test_a_trial_that_fails_and_ctrl_c(folder):
    """The first of two trials is stopped by Ctrl-C and goes on, the second one diverges."""
    arguments = ("train.abort_after=1", "--grid", "optimizer.lr=1e-3,1e30", "--ranks", 1)
    process = support.start("sweep", "recipe.yaml", *arguments)
    support.wait_for_step("runs/whole-0", 2, process, timeout=300)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 75, said
    assert "the same command goes on with it" in said and not Path("runs/whole-1").exists()
    assert json.loads(Path("sweeps/whole/sweep.json").read_text())["ended"] == {}
    done = support.launcher("sweep", "recipe.yaml", *arguments, timeout=600)
    starts = [json.loads(line)["event"] for line in Path("runs/whole-0/jobs.jsonl").read_text().splitlines()]
    assert starts.count("started") == 2 and max(support.steps("runs/whole-0")) == 8
    first, second = (
        line.split() for line in done.stdout.splitlines() if line.startswith("whole-") and "failed:" not in line
    )
    assert (first[0], first[-1], second[0], second[-1]) == ("whole-0", "best", "whole-1", "failed")
    assert "whole-1 failed: " in done.stdout and "not finite" in done.stdout
    again = support.launcher("sweep", "recipe.yaml", *arguments)
    assert again.stdout == done.stdout and not again.stderr


def test_optuna_prunes_and_its_best_trial_is_that_of_the_table(folder):
    """It alone proves that evaluations reach Optuna while a run trains; seven trials, since its pruner wants five."""
    optuna = pytest.importorskip("optuna")
    ranges = ("--optuna", "optimizer.lr=log:1e-6:1e-1", "--trials", 7, "--ranks", 1, "seed=6", "train.steps=32")
    kill_at("runs/whole-2", 4, *ranges)
    said = support.launcher("sweep", "recipe.yaml", *ranges, timeout=600).stdout
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend("sweeps/whole/optuna.journal"))
    study = optuna.load_study(study_name="whole", storage=storage)
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line.startswith("whole-")}
    best = study.best_trial
    assert rows[f"whole-{best.number}"][-1] == "best" and best.value == values(f"runs/whole-{best.number}")[32]
    params = json.loads(Path("sweeps/whole/sweep.json").read_text())["trials"]
    assert [trial.params for trial in study.trials] == params
    pruned = [trial.number for trial in study.trials if trial.state is optuna.trial.TrialState.PRUNED]
    assert pruned and all("pruned" in rows[f"whole-{number}"] for number in pruned)
    for number in pruned:
        assert max(support.steps(f"runs/whole-{number}")) < 32 and list(
            Path(f"runs/whole-{number}/checkpoints").iterdir()
        )


def test_mistakes_are_reported_at_once_before_anything_starts(folder):
    words = ["--grid", "optimizer.lrr=1,2", "--grid", "train.global_batch=a", "--grid", "name=x", "--metric", "acc"]
    done = support.launcher("sweep", "recipe.yaml", *words, "--trials", 3, code=2)
    lines = done.stderr.splitlines()
    assert sorted(line.partition(": ")[0] for line in lines) == [
        "--grid name=x", "--grid optimizer.lrr=1,2", "--grid train.global_batch=a", "--metric acc", "--trials",
    ]  # fmt: skip
    assert "did you mean lr?" in done.stderr and "there are: loss, mae, mse" in done.stderr
    assert not Path("runs").exists() and not Path("sweeps").exists()
