"""One recipe, one trajectory: on any number of ranks, through kills and resumes, by every start command."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import support
from safetensors.numpy import load_file
from support import wandb_file

DEADLY = '''
"""A sink that ends its rank, or all of them, when a step is told."""
import os, signal
from typing import Literal
from launcher import sinks
from launcher.config.types import Plugin

class Config(Plugin):
    kind: str
    step: int
    what: Literal["power", "rank", "stop"]

class Sink(sinks.Sink):
    def __init__(self, config, about):
        self.config = config

    def write(self, record):
        if record["step"] != self.config.step or "loss" not in record:
            return
        if self.config.what == "power":
            os.killpg(os.getpgid(0), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL if self.config.what == "rank" else signal.SIGTERM)

    def close(self, finished):
        pass
'''
STEPS = 60


def sixty(name, **changes):
    """Sixty steps in fp64, with dropout, hidden and of the attention."""
    wet = {"kind": "config", "type": "bert", **support.TINY, "dropout": 0.1}
    sixty = {"train__steps": STEPS, "train__precision": "fp64", "checkpoint__every": 5, "model": wet}
    return support.mlm(name, **{**sixty, **changes})


def deadly(step, what):
    return f"sinks=[jsonl, {{kind: deadly, step: {step}, what: {what}}}]".replace("kind: deadly", "kind: here.deadly")


def same(there, here, tolerance=1e-8):
    assert sorted(there) == sorted(here) == list(range(1, STEPS + 1))
    for step, told in there.items():
        assert here[step]["data"] == told["data"], step
        assert abs(here[step]["loss"] - told["loss"]) < tolerance, step
        assert here[step]["samples"] == told["samples"] and here[step]["tokens"] == told["tokens"]


def weights(run):
    """Every tensor of the newest checkpoint, joined from its shards."""
    folder = sorted(Path(run, "checkpoints").glob("step-*"))[-1]
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the corpus, the deadly sink, and the run that was never stopped, on one rank."""
    folder = tmp_path_factory.mktemp("trajectory")
    support.corpus(folder)
    (folder / "here").mkdir()
    (folder / "here" / "deadly.py").write_text(DEADLY)
    before = Path.cwd()
    os.chdir(folder)
    support.launcher("run", support.write(sixty("one"), "one.yaml"), "--ranks", 1)
    yield folder
    os.chdir(before)


WITH = {2: "train.workers=2", 3: "checkpoint={every: 1s, keep: 99}", 4: "train.max_tokens=null"}


@pytest.mark.parametrize("ranks", WITH)
def test_any_number_of_ranks_walks_the_same_way(place, ranks):
    """With loader workers, with checkpoints by time, and without a bound on micro-batches, too."""
    support.launcher("run", "one.yaml", f"name=on-{ranks}", "--ranks", ranks, WITH[ranks])
    same(support.steps("runs/one"), support.steps(f"runs/on-{ranks}"))
    assert Path(f"runs/on-{ranks}/checkpoints/step-00000060/COMPLETE").is_file()


def test_without_dropout_too(place):
    """Attention is torch's fused kernel then."""
    for name, ranks in (("dry", 1), ("dry-on-2", 2)):
        support.launcher("run", "one.yaml", f"name={name}", "model.dropout=0.0", "--ranks", ranks)
    same(support.steps("runs/dry"), support.steps("runs/dry-on-2"))
    assert support.steps("runs/dry")[1]["loss"] != support.steps("runs/one")[1]["loss"]


def test_kills_and_resumes_on_fewer_ranks_change_nothing(place):
    chain = ["run", "one.yaml", "name=chain", "checkpoint.mode=sync"]  # so that the step of each resume is known

    off = support.start(*chain, deadly(37, "power"), "--ranks", 4)
    off.communicate(timeout=240)
    assert off.returncode == -9
    assert max(support.steps("runs/chain")) == 37

    lost = support.launcher(*chain, deadly(46, "rank"), "--ranks", 3, code=1)
    assert re.match(r"rank 0 was killed by SIGKILL .*; start it again and it goes on from step 45", last(lost.stderr))
    assert "Traceback" not in lost.stderr

    told = support.launcher(*chain, deadly(52, "stop"), "--ranks", 2, code=75)
    assert "Traceback" not in told.stderr
    assert Path("runs/chain/checkpoints/step-00000052/COMPLETE").is_file()

    support.launcher(*chain, "--ranks", 1, "--resume")
    same(support.steps("runs/one"), support.steps("runs/chain"))
    told = [r["step"] for r in support.records("runs/chain") if "loss" in r]
    assert told == [*range(1, 38), *range(36, 47), *range(46, 53), *range(53, 61)]
    clock = [r["seconds"] for r in support.steps("runs/chain").values()]
    assert clock == sorted(clock)


def last(text):
    return next(line for line in text.splitlines() if line.startswith("rank "))


def test_a_lost_rank_is_restarted_where_restarts_are_allowed_and_wandb_has_one_run_of_it_all(place, monkeypatch):
    """The deadly sink kills at step 37 each time it is told, after the restart from 35 once more. Every loss stands
    in the newest folder that wandb writes, under the run id of all three starts; whoever started the command used wandb
    too, whose service is not that of the ranks."""
    monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-/nowhere")
    offline = "{kind: wandb, mode: offline}"
    command = ["run", "one.yaml", "name=again", "checkpoint.mode=sync", "--ranks", 2]
    again = support.launcher(
        *command, deadly(37, "rank").replace("jsonl", f"jsonl, {offline}"), "--max-restarts", 1, code=1
    )
    assert "rank 0 was killed by SIGKILL" in again.stderr
    assert [r["step"] for r in support.records("runs/again") if "loss" in r] == [*range(1, 38), 36, 37]
    done = support.launcher(*command, f"sinks=[jsonl, {offline}]")
    same(support.steps("runs/one"), support.steps("runs/again"))

    files = sorted(Path("runs/again/wandb").glob("offline-run-*/*.wandb"))  # by when they were begun
    starts = [[*wandb_file.records(file)] for file in files]
    (run_id,) = {r.run.run_id for start in starts for r in start if r.WhichOneof("record_type") == "run"}
    assert len(starts) == 3 and Path("runs/again/wandb.id").read_text() == run_id
    rows = [row for row in wandb_file.history(starts[-1]) if "loss" in row]
    logged = {row["step"]: row["loss"] for row in rows}
    assert [row["step"] for row in rows] == sorted(logged) and len(rows) == len(logged) == 60
    assert f"wandb sync {files[-1].parent}" in done.stdout
    assert logged == {step: record["loss"] for step, record in support.steps("runs/again").items()}


def test_a_resume_repeats_dropout_to_the_last_bit(place):
    """On three ranks: with two a sum of gradients does not depend on its order."""
    model = {"kind": "config", "type": "bert", **support.TINY, "dropout": 0.1}
    support.write(sixty("wet", model=model, train__precision="fp32"), "wet.yaml")
    whole, cut, ranks = "whole", "cut", 3
    support.launcher("run", "wet.yaml", f"name={whole}", "--ranks", ranks)
    off = support.start("run", "wet.yaml", f"name={cut}", deadly(37, "power"), "--ranks", ranks)
    off.communicate(timeout=240)
    assert off.returncode == -9
    support.launcher("run", "wet.yaml", f"name={cut}", "--ranks", ranks)
    there, here = weights(f"runs/{whole}"), weights(f"runs/{cut}")
    assert there.keys() == here.keys() and len(there) > 50
    for name, tensor in there.items():
        assert tensor.tobytes() == here[name].tobytes(), name
    losses = {step: r["loss"] for step, r in support.steps(f"runs/{whole}").items()}
    assert losses == {step: r["loss"] for step, r in support.steps(f"runs/{cut}").items()}


START = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "-m", "launcher.worker"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "launcher.worker"],
    "alone": ["launcher.worker"],
}


@pytest.mark.parametrize("how", START)
def test_every_start_command_gives_the_same_run(place, how):
    done = subprocess.run(
        [sys.executable, "-m", *START[how], "one.yaml", f"name={how}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    same(support.steps("runs/one"), support.steps(f"runs/{how}"))


def test_run_starts_through_torchrun_too(place):
    support.launcher("run", "one.yaml", "name=via", "--ranks", 2, "--via", "torchrun")
    same(support.steps("runs/one"), support.steps("runs/via"))


def test_debug_walks_the_same_way(place):
    out = support.launcher("debug", "one.yaml", "--steps", 5).stdout
    told = re.findall(r"step +(\d+)  loss ([\d.]+).*data ([0-9a-f]{16})", out)
    there = support.steps("runs/one")
    assert [(int(s), data) for s, _, data in told] == [(s, there[s]["data"]) for s in range(1, 6)]
    assert all(abs(float(loss) - there[int(s)]["loss"]) < 1e-6 for s, loss, _ in told)


def test_evaluation_is_the_same_on_any_number_of_ranks_and_as_logged(place):
    logged = support.evaluations("runs/one")[STEPS]
    for ranks in (1, 3):
        told = json.loads(support.launcher("evaluate", "runs/one", "--ranks", ranks, "--json").stdout)
        assert told["eval/accuracy"] == logged["eval/accuracy"]
        assert told["eval/loss"] == pytest.approx(logged["eval/loss"], rel=1e-12)


def test_a_checkpoint_as_the_model_of_another_run_has_the_validation_loss_that_was_logged(place):
    model = {"kind": "run", "run": "runs/one", "dropout": 0.0}
    recipe = sixty("onward", model=model, tokenizer=None, train__steps=1, evaluate__at_start=True)
    support.launcher("run", support.write(recipe, "onward.yaml"), "--ranks", 2)
    assert support.evaluations("runs/onward")[0]["eval/loss"] == pytest.approx(
        support.evaluations("runs/one")[STEPS]["eval/loss"], rel=1e-12
    )


def test_a_classifier_takes_the_encoder_of_a_run_and_a_new_head(place):
    model = {"kind": "run", "run": "runs/one", "checkpoint": "best"}
    recipe = support.classification("labels", model=model, tokenizer=None, evaluate__at_start=True)
    done = support.launcher("run", support.write(recipe, "labels.yaml"), "sinks=[console, jsonl]", "--ranks", 2)
    assert "weights taken from runs/one/checkpoints/step-00000060" in done.stdout
    assert "new weights, not in it: bert.pooler" in done.stdout
    assert {"eval/accuracy", "eval/f1", "eval/precision/few"} <= set(support.evaluations("runs/labels")[6])
