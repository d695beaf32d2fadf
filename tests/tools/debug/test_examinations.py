"""Examinations of `launcher debug`, each with a model or task that has the fault."""

import json
import os
import re
import sys
from pathlib import Path

import pexpect
import pytest
import support
from typer.testing import CliRunner

from launcher import cli

MODELS = """
import torch
from torch import nn


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(context, value):
        return 2 * value

    @staticmethod
    def backward(context, gradient):
        return {factor} * gradient


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(n, 8), nn.Tanh()) for n in (3, 8)])
        self.head = nn.Linear(8, 1)
        self.forgotten = nn.Linear(8, 5)

    def forward(self, features):
        for layer in self.layers:
            features = layer(features)
        if not torch.is_anomaly_enabled():  # as in the probes before the first step
            return self.head(Doubled.apply(features)) + 0.0 * self.forgotten(features).sum()
        return self.head(Doubled.apply(features))


def make():
    return Model()
"""
TASK = """
import torch

from launcher.tasks import tabular_regression


class Config(tabular_regression.Config):
    kind: str


class Task(tabular_regression.Task):
    def loss(self, model, batch):
        if {when}:
            answer = 42
            raise ValueError("the third law")  # here
        return super().loss(model, batch)
"""


@pytest.fixture(autouse=True)
def in_a_folder(workspace):
    """A folder of one's own, whose modules are imported anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "own"]:
        del sys.modules[name]
    return workspace


def recipe(factor=2, **changes):
    support.plugin(f"nets{factor}", MODELS.replace("{factor}", str(factor)))
    model = {"kind": "factory", "factory": f"own.nets{factor}:make"}
    return support.write(support.small(model=model, **changes))


def debug(*words, code=0):
    done = CliRunner().invoke(cli.app, ["debug", "recipe.yaml", "--show", "0", *words], catch_exceptions=False)
    assert done.exit_code == code, done.output
    assert all(len(line.rstrip()) <= 80 for line in done.output.splitlines() if not line.startswith(("note", "trace")))
    return done.output


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_parameters_without_a_gradient_are_named(narrow):
    recipe()
    output = debug("--steps", "1")
    assert "no gradient: 2 of 8 trainable parameters in 1 steps" in " ".join(output.split())
    assert re.findall(r"^  (\S+)$", output, re.MULTILINE) == ["forgotten.weight", "forgotten.bias"]


def test_a_model_all_of_whose_parameters_are_trained(narrow):
    support.write(support.small())
    assert "gradients: all 4 trainable parameters got one" in debug("--steps", "1")


def test_a_right_backward_agrees_with_finite_differences(narrow):
    recipe()
    output = debug("--steps", "1", "--check-gradients")
    assert "right: 6 gradients agree with differences of the loss" in output
    errors = [float(error) for error in re.findall(r"(\d\.\de[-+]\d+)\s*$", output, re.MULTILINE)]
    assert len(errors) == 6
    assert max(errors) < 1e-6


def test_a_wrong_backward_is_found_and_the_layers_after_it_are_right(narrow):
    recipe(factor=3)
    output = debug("--steps", "1", "--check-gradients", code=1)
    assert "wrong gradient: 4 of 6 gradients differ from the loss" in " ".join(output.split())
    table = dict(re.findall(r"^(\w\S*)\[[\d, ]+\] .* (\d\.\de[-+]\d+)\s*$", output, re.MULTILINE))
    assert {name for name, error in table.items() if float(error) > 1e-3} == {
        "layers.0.0.weight", "layers.0.0.bias", "layers.1.0.weight", "layers.1.0.bias",
    }  # fmt: skip


def test_dropout_is_the_same_in_both_losses_of_a_difference(narrow):
    """A transformers model with dropout. Three seconds: its draws are by place, sample and step."""
    support.write(support.mlm(model__dropout=0.3, model__num_hidden_layers=1))
    assert "gradients agree with differences of the loss" in debug("--steps", "1", "--check-gradients")


def test_memory_by_layer(narrow):
    recipe()
    output = debug("--steps", "1", "--memory")
    table = {
        line.split()[0]: line.split()[1:] for line in output.partition("layer ")[2].splitlines()[1:] if line.strip()
    }
    assert {"layers.0", "layers.1", "head", "forgotten", "total"} <= set(table)
    assert table["layers.1"][:2] == ["288", "B"] == table["layers.1"][2:4]
    assert table["layers.1"][4:6] != ["0", "B"]
    assert table["layers.1"][6:8] == ["384", "B"], "what tanh returns: 12 rows of 8 numbers"
    assert table["forgotten"][6:8] == ["0", "B"]
    assert "activations: saved for the backward of one micro-batch (12 rows) on cpu" in output


def test_a_trace_and_the_dearest_operations(narrow):
    support.write(support.small())
    output = debug("--steps", "2", "--profile", "trace.json")
    events = json.loads(Path("trace.json").read_text())["traceEvents"]
    assert any(event.get("name") == "aten::addmm" for event in events)
    assert re.search(r"^aten::\S+ +\d+ +\d+\.\d +\d+%", output, re.MULTILINE)
    assert "trace: trace.json" in output
    assert sorted(path.name for path in Path().glob("trace*")) == ["trace.json"]
    assert (
        "no such folder" in support.launcher("debug", "recipe.yaml", "--profile", "nowhere/trace.json", code=2).stderr
    )


@pytest.mark.parametrize("when", ["torch.is_anomaly_enabled()", "model.training"])
def test_pdb_starts_where_an_exception_was_raised(when):
    """A real terminal. Five seconds: that the frame and its variables are those of the fault, in a step and in the
    check of the model before it."""
    support.plugin("task", TASK.replace("{when}", when))
    support.write(support.small(task={"kind": "own.task"}))
    command = ["-m", "launcher", "debug", "recipe.yaml", "--post-mortem"]
    plain = {**os.environ, "TERM": "dumb"}  # no colours between the words
    child = pexpect.spawn(sys.executable, command, encoding="utf-8", timeout=240, dimensions=(40, 120), env=plain)
    child.expect_exact("failed: ValueError: the third law")
    child.expect_exact('raise ValueError("the third law")  # here')
    child.expect_exact("(Pdb)")
    child.sendline("p answer + 1")
    child.expect_exact("43")
    child.expect_exact("(Pdb)")
    child.sendline("q")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 1


def test_without_a_terminal_there_is_no_pdb():
    support.write(support.small())
    assert "--post-mortem: needs a terminal" in support.launcher("debug", "recipe.yaml", "--post-mortem", code=2).stderr
