"""A garbage batch in the middle of a run: told, skipped, or rolled back, on any number of ranks and through a kill."""

import json
from pathlib import Path

import numpy as np
import pytest
import support
from support import ranks

from launcher.contract.order import Order

SPIKE, STEPS, ROWS, BATCH = 24, 34, 600, 12
TASK = """
from own import garbage
from launcher.tasks import tabular_regression

class Config(tabular_regression.Config):
    kind: str

class Task(tabular_regression.Task):
    def samples(self, rows, epochs, ids, draw):
        samples = super().samples(rows, epochs, ids, draw)
        for sample, id in zip(samples, ids):
            sample["labels"] = sample["labels"] * (1000.0 if id in garbage.IDS else 1.0)
        return samples
"""
SINK = '''
"""Powers the machine off when a step that is left out is recorded, and no file says that this has happened."""
import os, signal
from pathlib import Path
from launcher import sinks
from launcher.config.types import Plugin

class Config(Plugin):
    kind: str

class Sink(sinks.Sink):
    def __init__(self, config, about):
        pass

    def write(self, record):
        if record.get("left_out") and not Path("was-killed").exists():
            Path("was-killed").touch()
            os.killpg(os.getpgid(0), signal.SIGKILL)

    def close(self, finished):
        pass
'''


def recipe(name, on_spike="tell", **changes):
    """A regression in fp64 with checkpoints every 5 steps. A step is usual after eight others."""
    spike = {"history": 16, **({"leave_out": 6} if on_spike == "roll_back" else {})}
    support.write(
        support.small(
            name, data__train__rows=ROWS, task__kind="own.task", optimizer={"kind": "adamw", "lr": 0.02, "clip": None},
            train={"global_batch": BATCH, "steps": STEPS, "precision": "fp64", "on_spike": on_spike, "spike": spike},
            checkpoint={"every": 5, "keep": 2}, **changes,
        ),
        f"{name}.yaml",
    )  # fmt: skip
    return f"{name}.yaml"


def garbage(ids):
    support.plugin("task", TASK)
    support.plugin("garbage", f"IDS = {ids}")


@pytest.fixture
def spoilt(workspace):
    garbage(Order(ROWS, 3).step(SPIKE - 1, BATCH)[1].tolist()[:3])
    support.plugin("sink", SINK)


def losses(name, steps):
    return np.array([support.steps(f"runs/{name}")[step]["loss"] for step in steps])


def left_out(name):
    return [step for step, record in support.steps(f"runs/{name}").items() if record.get("left_out")]


def same(one, other):
    """The same samples at each step, the same steps left out, and losses that agree to rounding."""
    here, there = support.steps(f"runs/{one}"), support.steps(f"runs/{other}")
    assert [r["data"] for r in here.values()] == [r["data"] for r in there.values()]
    assert left_out(one) == left_out(other)
    trained = [step for step in here if step not in left_out(one)]
    assert losses(one, trained) == pytest.approx(losses(other, trained), rel=1e-8)


def test_training_goes_back_leaves_the_batch_out_and_ends_where_a_clean_run_does(spoilt):
    """On two ranks, on one, and on two that are killed while the steps are left out, and then on three. Checkpoint 20
    has trained steps that are left out, and goes."""
    out = support.launcher("run", recipe("two", "roll_back"), "--ranks", 2).stdout
    assert f"step {SPIKE} is a spike: loss " in out and "training goes back; its samples: " in out
    assert "steps 19 to 24 are left out; training goes on from step 15" in out
    support.launcher("run", recipe("one", "roll_back"), "--ranks", 1)
    killed = support.start("run", recipe("killed", "roll_back", sinks=["jsonl", {"kind": "own.sink"}]), "--ranks", 2)
    killed.communicate(timeout=240)
    assert Path("was-killed").exists() and max(support.steps("runs/killed")) == SPIKE
    assert sorted(p.name for p in Path("runs/killed/checkpoints").iterdir()) == [f"step-{15:08}"]
    support.launcher("run", "killed.yaml", "--ranks", 3)
    assert left_out("two") == [19, 20, 21, 22, 23, 24]
    same("two", "one")
    same("two", "killed")
    first = next(r for r in support.records("runs/two") if r["step"] == SPIKE)
    assert first["spike"] == 1 and first["loss"] > 100 * losses("two", [SPIKE + 1])[0]
    found = json.loads(Path("runs/two/roll_backs.json").read_text())["spikes"]
    assert [(f["first"], f["step"], f["loss"]) for f in found] == [(19, SPIKE, first["loss"])]
    replayed = [
        json.loads(support.launcher("seen", "runs/killed", step, "--replay", "--json").stdout) for step in (22, 25)
    ]
    assert [(one["left_out"], one["replay"]["start"]) for one in replayed] == [(True, 0), (False, 0)]
    assert replayed[1]["replay"]["difference"] < 1e-8
    garbage([])
    support.launcher("run", recipe("clean"), "--ranks", 1)
    last = np.arange(STEPS - 4, STEPS + 1)
    assert losses("clean", last).mean() < losses("two", last).mean() < losses("clean", last - 6).mean()
    assert not any("spike" in record for record in support.records("runs/clean"))


def train_noting_stages(process, folder):
    """Train to the end. Returns the stages in which this rank waited for a checkpoint that is being written."""
    from launcher import rank_training
    from launcher.distributed.heartbeat import Heartbeat
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.train.checkpoint_saver import CheckpointSaver

    heartbeat, stages, finish = Heartbeat(), [], CheckpointSaver.finish

    def noted(saver):
        stages.append(heartbeat.position.stage.name)
        finish(saver)

    CheckpointSaver.finish = noted
    rank_training.train(folder, process, StopMonitor(), heartbeat)
    return stages


def test_a_slow_disk_before_the_way_back_is_no_hang(spoilt):
    """A stage of a step may last a minute, a save a quarter of an hour, and the last save as long as it takes."""
    assert ranks.on_ranks(1, train_noting_stages, ranks.ready(recipe("stages", "roll_back"))) == [["SAVING", "LEAVING"]]


def test_a_skipped_spike_updates_nothing_and_a_told_one_does(spoilt):
    told = support.launcher("run", recipe("told"), "--ranks", 1).stdout
    skipped = support.launcher("run", recipe("skipped", "skip"), "--ranks", 2).stdout
    for name, out in (("told", told), ("skipped", skipped)):
        assert f"step {SPIKE} is a spike" in out and ("nothing was updated" in out) == (name == "skipped")
        assert [s for s, r in support.steps(f"runs/{name}").items() if "spike" in r] == [SPIKE]
        assert losses(name, range(1, SPIKE + 1)) == pytest.approx(losses("told", range(1, SPIKE + 1)), rel=1e-8)
    after = np.arange(SPIKE + 1, STEPS + 1)
    assert losses("skipped", after) != pytest.approx(losses("told", after), rel=1e-4)
    assert {r["skipped"] for r in support.records("runs/skipped")} == {0}
