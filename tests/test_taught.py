"""Tasks with a model beside the one that learns, and with samples of its own making, walk one way on any layout."""

import os
from pathlib import Path

import pytest
import support
from support import ranks, strategy_steps
from test_exact_loss import LAYOUTS, compare

from launcher.config import load
from launcher.config.errors import UserError
from launcher.prepare import run_setup
from launcher.storage.run_dir import RunDir

GPT = {"kind": "config", "type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48}
STEPS = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the corpus, and a teacher."""
    folder = tmp_path_factory.mktemp("taught")
    support.corpus(folder)
    (folder / "scores.py").write_text(
        "import os\ndef broken(prompt, completion):\n    return {'0': 1.0}[os.environ['RANK']]\n"
    )
    before = Path.cwd()
    os.chdir(folder)
    walked("teacher", 1, support.mlm("teacher", train__steps=4), 4)
    yield folder
    os.chdir(before)


def walked(name, world, recipe, steps, **changes):
    """The records of the next steps of a run, on so many ranks, and the evaluation after them; they are saved."""
    recipe = support.changed(recipe, name=name, **changes)
    return ranks.on_ranks(world, walk, ranks.ready(support.write(recipe, f"{name}.yaml"), ranks=world), steps)[0]


def walk(process, folder, steps):
    from launcher.train import loop

    run = strategy_steps.build(
        process, folder, run_setup.load(folder).recipe.strategy.model_dump(), resume=newest(folder)
    )
    before = None if run.progress.step else loop.evaluate(run)
    records = strategy_steps.take(run, steps)
    after = loop.evaluate(run)
    loop.save(run)
    return {"before": before, "records": {record["step"]: record for record in records}, "after": after}


def newest(folder):
    return next(reversed(RunDir(folder).whole()), None)


def student(name, **changes):
    task = {"kind": "distillation", "task": {"kind": "mlm"}, "teacher": {"run": "runs/teacher"}}
    tokenizer = {"kind": "pretrained", "name": "runs/teacher/tokenizer"}
    model = {"kind": "config", "type": "bert", **support.TINY, "num_hidden_layers": 1}
    return support.mlm(name, **{"task": task, "tokenizer": tokenizer, "model": model, **changes})


def policy(name, **changes):
    """Prompts of up to 8 tokens, with completions of up to 6."""
    task = {"kind": "reward", "reward": "launcher.tasks._rewards:vowels", "max_new_tokens": 6}
    known = {"model": GPT, "task": task, "data__max_length": 14, "train__precision": "fp64", "train__max_tokens": 24}
    more = {"train__steps": STEPS, "optimizer__lr": 0.01}
    return support.mlm(name, **{**known, **more, **changes})


@pytest.mark.parametrize("samples", ["chunks", "packed"])
def test_the_gradients_of_distillation_do_not_know_the_layout(place, samples):
    changes = {"train__global_batch": 64, "train__precision": "fp64", "task__task__samples": samples}
    folder = ranks.ready(support.write(student(f"exact-{samples}", **changes)))
    compare(folder, LAYOUTS.values() if samples == "chunks" else [(2, 96)], 1e-10)


def test_a_student_under_fsdp_walks_as_alone_and_keeps_the_step_of_its_teacher(place):
    alone = walked("alone", 1, student("alone", train__precision="fp64"), 4)
    assert "checkpoint: 4" in Path("runs/alone/recipe.yaml").read_text()
    same(alone, walked("dealt", 2, student("dealt", train__precision="fp64"), 4, strategy="fsdp"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task__teacher__run": "runs/nobody"}, r"none.yaml:\d+: task.teacher.run: runs/nobody: no run is there"),
        ({"task__teacher__checkpoint": 3}, r"none.yaml:\d+: task.teacher.checkpoint: .* no whole checkpoint of step 3"),
    ],
)
def test_a_teacher_that_is_not_there_is_told_by_the_plan(place, changes, told):
    with pytest.raises(UserError, match=told):
        recipe = load.recipe(support.write(student("none", **changes), "none.yaml"))
        run_setup.dry_run(recipe, load.cluster("local").value, 1)


def test_a_teacher_of_another_vocabulary_is_refused_before_anything_starts(place):
    recipe = student("other", tokenizer={"kind": "train", "vocab_size": 90})
    with pytest.raises(UserError, match="tokenizer: another vocabulary than the teacher's"):
        ranks.ready(support.write(recipe, "other.yaml"))
    assert not Path("runs/other").exists()


@pytest.fixture(scope="module")
def played(place):
    """A policy that learnt on one rank."""
    return walked("played", 1, policy("played"), STEPS)


@pytest.mark.parametrize(("world", "strategy"), [(2, "ddp"), (3, "fsdp")])
def test_rewards_do_not_know_the_layout(played, world, strategy):
    same(played, walked(f"on-{world}", world, policy("on"), STEPS, strategy=strategy))


def test_rewards_go_on_after_a_stop_beside_the_reference_of_the_start(played):
    """By other processes, on another number of ranks."""
    first = walked("stopped", 2, policy("stopped"), 5)
    then = walked("stopped", 1, policy("stopped"), STEPS - 5)
    same(played, {**then, "records": first["records"] | then["records"]})


def test_the_reward_rises_as_the_model_leaves_its_reference(played):
    start, end = played["before"], played["after"]
    assert end["eval/reward"] > start["eval/reward"] + 0.02
    assert end["eval/kl"] > start["eval/kl"] == 0


def test_a_reward_that_raises_on_one_rank_is_told_without_a_traceback(place):
    recipe = policy("broken", task__reward="scores:broken")
    done = support.launcher("run", support.write(recipe, "broken.yaml"), "--ranks", 2, code=2)
    assert "task.reward: scores:broken(" in done.stderr and "raised KeyError: '1'" in done.stderr
    assert "Traceback" not in done.stderr and "peer" not in done.stderr


def same(there, here):
    assert there["records"].keys() == here["records"].keys()
    for step, told in there["records"].items():
        assert here["records"][step]["data"] == told["data"]
        assert here["records"][step]["loss"] == pytest.approx(told["loss"], abs=1e-9)
    assert here["after"] == pytest.approx(there["after"], rel=1e-8)
