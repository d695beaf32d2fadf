"""Randomness of a model that ranks and micro-batches would change: told with its module, and refused where asked."""

import json
from pathlib import Path

import pytest
import support

NOISY = '''
"""A model with a noise of its own between two layers."""
import numpy as np
import torch
from torch import nn

class Noise(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        return x + self.draw(x) if self.training else x

def numpy(shape, num_labels):
    noise = Noise(lambda x: torch.from_numpy(np.random.normal(size=x.shape)).to(x.dtype))
    return nn.Sequential(nn.Linear(shape[0], 8), noise, nn.Linear(8, num_labels))

def torch_rand(shape, num_labels):
    return nn.Sequential(nn.Linear(shape[0], 8), Noise(torch.rand_like), nn.Linear(8, num_labels))

def all_gone(shape, num_labels):
    return nn.Sequential(nn.Linear(shape[0], 8), nn.Dropout(1.0), nn.Linear(8, num_labels))
'''
TOLD = "1 draws random numbers of its own"


@pytest.fixture
def noisy(workspace):
    """A recipe whose model is given by the name of a function."""
    support.plugin("noisy", NOISY)

    def write(function, **changes):
        model = {"kind": "factory", "factory": f"own.noisy:{function}"}
        return support.write(support.small(model=model, train__precision="fp64", **changes))

    return write


def test_noise_of_ones_own_is_told_and_the_run_goes_on(noisy):
    done = support.launcher("run", noisy("numpy", sinks=["console", "jsonl"]))
    assert (
        f"{TOLD}: so the run depends on its ranks and micro-batches (train.strict_contract refuses this)"
        in " ".join(done.stdout.split())
    )
    assert max(support.steps("runs/tiny")) == 6


def test_a_strict_contract_refuses_it_in_one_line(noisy):
    done = support.launcher("run", noisy("numpy", train__strict_contract=True), "--ranks", 2, code=2)
    assert done.stderr.splitlines()[-1] == (
        f"train.strict_contract: {TOLD}: ranks and micro-batches change the run (train.strict_contract: "
        "false trains it all the same)"
    )
    assert done.stderr.count(TOLD) == 1 and "Traceback" not in done.stderr
    assert not support.records("runs/tiny")


def test_parity_is_strict(noisy):
    done = support.launcher("parity", noisy("numpy"), "--strategies", "ddp", "--ranks", "2", code=2)
    assert TOLD in done.stderr and "Traceback" not in done.stderr
    how = ("--strategies", "ddp", "--ranks", "2", "--steps", "2")
    done = support.launcher("parity", "recipe.yaml", "train.strict_contract=false", *how, code=1)
    assert "differs" in done.stdout


def test_numbers_that_a_model_takes_from_torch_are_those_of_the_sample(noisy):
    for ranks in (1, 2):
        file = noisy("torch_rand", name=f"on-{ranks}", train__strict_contract=True)
        support.launcher("run", file, "--ranks", ranks)
    support.same_run("runs/on-1", "runs/on-2", 1e-12)


def test_a_rate_of_one_is_refused_with_its_module(noisy):
    done = support.launcher("run", noisy("all_gone"), code=2)
    assert done.stderr.splitlines()[-1] == "model: 1: a dropout rate is at least 0 and below 1, not 1.0"


@pytest.mark.parametrize(
    ("key", "rate"), [("hidden_dropout_prob", 1.5), ("attention_probs_dropout_prob", -0.1), ("hidden_dropout_prob", 1)]
)
def test_a_rate_of_a_configuration_is_refused_by_the_plan(workspace, key, rate):
    model = {**support.TINY, "kind": "config", "type": "bert", key: rate}
    file = support.write(support.mlm(model={k: v for k, v in model.items() if k != "dropout"}))
    done = support.launcher("plan", file, code=2)
    (line,) = done.stderr.splitlines()
    assert line.endswith(f" model.{key}: {rate}: a dropout rate is at least 0 and below 1") and line.startswith(file)


def test_a_run_of_an_earlier_launcher_goes_on_and_is_told_what_changes(workspace):
    """Its checkpoints do not say by which definition it drew."""
    model = {"kind": "config", "type": "bert", **support.TINY, "dropout": 0.1}
    recipe = support.mlm(model=model, checkpoint={"every": 3}, sinks=["console", "jsonl"])
    support.launcher("run", support.write(recipe), "train.steps=6")
    newest = Path("runs/tiny/checkpoints/step-00000006")
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    _forget_the_definition(Path("runs/tiny/checkpoints/step-00000003"))
    done = support.launcher("run", "recipe.yaml")
    told = "dropout is drawn by sample from step 4 on, not as in the launcher that began the run"
    assert told in " ".join(done.stdout.split())
    assert max(support.steps("runs/tiny")) == 6


def _forget_the_definition(folder):
    """As an earlier launcher has written the checkpoint."""
    from launcher.config.paths import COMPLETE
    from launcher.storage.checkpoint_format import checksum

    file = folder / "state.json"
    state = json.loads(file.read_text())
    assert state.pop("draws") == 1
    file.write_text(json.dumps(state))
    whole = json.loads((folder / COMPLETE).read_text())
    entry = whole["files"]["state.json"]
    assert len(entry) == 2, entry
    whole["files"]["state.json"] = [file.stat().st_size, checksum(file)]
    (folder / COMPLETE).write_text(json.dumps(whole))
