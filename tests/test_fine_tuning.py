"""What happens around fine-tuning is part of the trajectory: on any number of ranks, under any strategy, and through
kills, a run stops early, lowers its rate, and thaws at the same steps."""

import json
import os
from pathlib import Path

import pytest
import support
from test_trajectory import DEADLY, deadly, weights

from launcher.storage.run_dir import RunDir

FREEZE = {"kind": "config", "type": "bert", **support.TINY, "freeze": ["bert.embeddings", "bert.encoder.layer.0"]}
WATCHED = {"every": 2, "metric": "accuracy", "patience": 3, "save_best": True}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the corpus and a sink that kills."""
    folder = support.corpus(tmp_path_factory.mktemp("fine-tuning"))
    (folder / "here").mkdir()
    (folder / "here" / "deadly.py").write_text(DEADLY)
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def exact(name, **changes):
    keys = {"train__steps": 12, "train__precision": "fp64", "checkpoint__every": 3}
    return support.write(support.classification(name, **{**keys, **changes}), f"{name}.yaml")


def told(run):
    """The losses and rates of each step."""
    return {step: (record["loss"], record["lr"]) for step, record in support.steps(run).items()}


def ended(file, step, what):
    """A run of two ranks that a sink ends at this step, in a process group of its own."""
    process = support.start("run", file, "--ranks", 2, deadly(step, what))
    process.communicate(timeout=120)
    assert process.returncode != 0


def same(there, here):
    assert told(there).keys() == told(here).keys()
    for step, found in told(here).items():
        assert found == pytest.approx(told(there)[step], abs=1e-10), step


# Early stopping, and the best checkpoint


def test_a_run_that_does_not_get_better_ends_early_at_the_same_step_on_any_number_of_ranks(place):
    for ranks in (1, 3):
        file = exact(f"early{ranks}", train__steps=60, optimizer__lr=1e-9, evaluate=WATCHED)
        done = support.launcher("run", file, "--ranks", ranks)
        told = "stopped early at step 8: no better accuracy in 3 evaluations (the best was at step 2)"
        assert told in done.stdout.replace("\n", " ")
    same("runs/early1", "runs/early3")
    assert max(support.steps("runs/early3")) == 8, "the first evaluation, and three that are no better"
    whole = RunDir(Path("runs/early3")).whole()
    assert whole[-1].state["enough"] is True
    again = support.launcher("run", "early3.yaml", "--ranks", 2)
    assert "stopped early at step 8 (another name starts another run)" in again.stdout
    assert max(support.steps("runs/early3")) == 8


def test_what_is_watched_is_part_of_the_recipe_where_it_ends_the_run(place):
    file = exact("patient", train__steps=10, optimizer__lr=1e-9, evaluate={**WATCHED, "patience": 1})
    support.launcher("run", file, "--ranks", 1)
    assert max(support.steps("runs/patient")) == 4
    refused = support.launcher("run", file, "--ranks", 1, "evaluate.metric=f1", code=2)
    assert "made by another recipe: evaluate.metric: accuracy there, f1 here" in refused.stderr


def test_the_best_checkpoint_is_that_of_the_metric_and_is_made_when_it_is_reached(place):
    keys = {"every": 2, "metric": "f1", "save_best": True}
    support.launcher("run", exact("best", optimizer__lr=0.02, checkpoint={"keep": 1}, evaluate=keys), "--ranks", 2)
    found = {step: record["eval/f1"] for step, record in support.evaluations("runs/best").items()}
    best = min(step for step, value in found.items() if value == max(found.values()))
    folder = RunDir(Path("runs/best"))
    assert folder.saved("best").step == best
    assert folder.saved("best").state["watched"] == {"metric": "eval/f1", "value": -found[best]}


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("evaluate.metric=f2", "has no metric 'f2' (there are: accuracy, f1, loss, precision, recall)"),
        ("evaluate.metric=los", "evaluate.metric: sequence_classification has no metric 'los' (did you mean loss?)"),
        ("evaluate.metric=accuracy/few", "sequence_classification has no metric 'accuracy/few'"),
        ("evaluate={patience: 2}", "evaluate.patience: goes by evaluations, and only the last step is evaluated"),
        ("schedule={kind: plateau}", "schedule: goes by evaluations, and only the last step is evaluated"),
    ],
)
def test_what_cannot_be_watched_is_told_by_the_plan(place, override, what):
    refused = support.launcher("plan", exact("wrong", evaluate={"every": 2}), override, "evaluate.every=null", code=2)
    assert what in refused.stderr


# A plateau lowers the rate


def test_a_plateau_lowers_the_rate_at_the_same_step_on_any_number_of_ranks_and_through_kills(place):
    keys = {
        "optimizer__lr": 1e-9, "evaluate": {"every": 2, "metric": "accuracy"},
        "schedule": {"kind": "plateau", "factor": 0.5, "patience": 1},
    }  # fmt: skip
    support.launcher("run", exact("plateau1", **keys), "--ranks", 1)
    rates = {step: lr for step, (_, lr) in told("runs/plateau1").items()}
    assert rates[1] == 1e-9 and rates[12] < rates[1]
    file = exact("plateau2", **keys)
    for step, what in ((5, "power"), (8, "stop")):
        ended(file, step, what)
    support.launcher("run", file, "--ranks", 3)
    same("runs/plateau1", "runs/plateau2")


# What is frozen at first, and trains later


@pytest.fixture(scope="module")
def thawed(place):
    """A run of one rank that is never stopped, and thaws at step 5."""
    model = {**FREEZE, "unfreeze_at": 5}
    support.launcher("run", exact("thawed", model=model, checkpoint={"every": 1, "keep": 20}), "--ranks", 1)
    return model


def test_the_frozen_stay_as_they_are_until_they_thaw(thawed):
    every = [weights_at("thawed", step) for step in (1, 5, 6, 12)]
    frozen = [name for name in every[0] if name.startswith(("model.bert.embeddings", "model.bert.encoder.layer.0"))]
    trained = "model.bert.encoder.layer.1.output.dense.weight"
    for name in frozen:
        assert (every[0][name] == every[1][name]).all(), name
    assert any((every[1][name] != every[2][name]).any() for name in frozen)
    assert (every[0][trained] != every[1][trained]).any()
    assert not any(name.startswith("optimizer.bert.embeddings") for name in every[1]), "no moments of what is frozen"
    assert any(name.startswith("optimizer.bert.embeddings") for name in every[2])


def weights_at(run, step):
    from safetensors.numpy import load_file

    folder = Path("runs", run, "checkpoints", f"step-{step:08}")
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


@pytest.mark.parametrize("strategy", ["{kind: ddp}", "{kind: fsdp}"])
def test_thawing_is_the_same_on_other_ranks_and_strategies(thawed, strategy):
    name = "thawed-" + strategy[7:-1]
    support.launcher("run", exact(name, model=thawed), "--ranks", 2, f"strategy={strategy}")
    same("runs/thawed", f"runs/{name}")


@pytest.mark.parametrize("step", [3, 5, 7])
def test_thawing_is_the_same_through_kills_before_at_and_after_it(thawed, step):
    name = f"killed{step}"
    file = exact(name, model=thawed)
    ended(file, step, "power")
    support.launcher("run", file, "--ranks", 1)
    same("runs/thawed", f"runs/{name}")
    there, here = weights("runs/thawed"), weights(f"runs/{name}")
    assert there.keys() == here.keys()
    assert max(abs(there[key] - here[key]).max() for key in there) < 1e-9
    assert json.loads(Path("runs", name, "plan.json").read_text())["steps"] == 12
