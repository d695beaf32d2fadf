"""The recipe alone decides whether kernels use TF32, and whether they are deterministic."""

import json
import os
import subprocess
import sys
from typing import get_args

import pytest
import support
import torch
from support import ranks

from launcher import build
from launcher.config.recipe import Recipe, trajectory
from launcher.config.training import Train
from launcher.distributed import process_group
from launcher.plan import memory
from launcher.tools import parity
from launcher.train import kernel_settings, precision

READ = """
import json, os, sys, warnings
warnings.simplefilter("error")
import torch
from launcher.config.training import Train
from launcher.train import kernel_settings
kernel_settings.apply(Train(global_batch=1, steps=1, **json.loads(sys.argv[1])))
backends = torch.backends
print(json.dumps({
    "old": [backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()],
    "cuda": [o.fp32_precision for o in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)],
    "cpu": [o.fp32_precision for o in (backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn)],
    "deterministic": [torch.are_deterministic_algorithms_enabled(), backends.cudnn.benchmark],
    "env": [os.environ.get(n) for n in ("NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG")],
}))
"""
OWN = '''
import torch

class Net(torch.nn.Module):
    """Writes its outputs with put_, which has no deterministic algorithm on any device."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 1)

    def forward(self, features):
        logits = self.linear(features)
        places = torch.arange(logits.numel(), device=logits.device)
        return torch.zeros_like(logits).put_(places, logits.flatten())
'''


def settings(environment, **train):
    """What torch answers in a process of its own, whose environment a container has set. A warning is an error."""

    known = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(train)], env=known, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def _plain():
    yield
    kernel_settings.apply(Train(global_batch=1, steps=1))


def test_fp32_is_full_fp32_whatever_a_container_sets():
    """In a process that inherits the variables of a container, as nothing else shows."""
    found = settings({"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1", "NVIDIA_TF32_OVERRIDE": "1"})
    assert found == {
        "old": [False, False, "highest"],
        "cuda": ["ieee"] * 3,
        "cpu": ["ieee"] * 3,
        "deterministic": [False, False],
        "env": ["0", None],
    }


def test_tf32_and_deterministic_are_choices_of_the_recipe():
    found = settings(
        {"NVIDIA_TF32_OVERRIDE": "0", "CUBLAS_WORKSPACE_CONFIG": ":0:0"}, precision="tf32", deterministic=True
    )
    assert found["old"] == [True, True, "high"]
    assert found["cuda"] == ["tf32"] * 3 and found["cpu"] == ["ieee"] * 3
    assert found["deterministic"] == [True, False]
    assert found["env"] == [None, ":4096:8"]


@pytest.mark.parametrize(
    "table", [precision.STORED, precision.TOLERANCE, memory._WIDTH, memory._ACTIVATION, parity.TOLERANCE]
)
def test_each_table_has_each_precision(table):
    assert set(table) == set(get_args(Train.model_fields["precision"].annotation))


def test_a_device_without_tf32_is_noted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    said = [kernel_settings.notes("tf32", torch.device(kind)) for kind in ("cpu", "cuda")]
    assert said == [
        ["train.precision: tf32 is the same as fp32 on a cpu device"],
        ["train.precision: Tesla V100 has no TF32, so that tf32 is the same as fp32"],
    ]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert (
        kernel_settings.notes("tf32", torch.device("cuda")) == kernel_settings.notes("fp32", torch.device("cpu")) == []
    )


def test_every_start_sets_them(workspace):
    """A rank by building its run, and the commands that take a trained model by loading it."""
    folder = ranks.ready(support.write(support.small(train__deterministic=True, train__precision="tf32")))
    run = ranks.built(process_group.connect(process_group.RankInfo()), folder)
    assert torch.are_deterministic_algorithms_enabled() and torch.backends.cuda.matmul.allow_tf32
    assert run.recipe.train.precision == "tf32"
    ranks.built(process_group.connect(process_group.RankInfo()), ranks.ready(support.write(support.small("other"))))
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cuda.matmul.allow_tf32


def test_determinism_may_change_at_a_resume_and_tf32_may_not():
    plain, *others = (
        trajectory(Recipe.model_validate(support.mlm(**keys)))
        for keys in ({}, {"train__deterministic": True}, {"train__precision": "tf32"})
    )
    assert [other == plain for other in others] == [True, False]


def test_an_operation_without_a_deterministic_algorithm_is_named_with_the_key(workspace):
    support.plugin("net", OWN)
    model = {"kind": "factory", "factory": "own.net:Net"}
    done = support.launcher("run", support.write(support.small(model=model, train__deterministic=True)), code=2)
    told = "train.deterministic: put_ has no deterministic algorithm (false trains without)"
    assert told in done.stderr and "Traceback" not in done.stderr + done.stdout


def test_two_samples_of_different_lengths_are_tried(workspace, monkeypatch):
    """One alone would not reach what computes a mask, or several samples in a row."""
    tried = []
    monkeypatch.setattr(build, "_try_backward", lambda model, task, samples, *more: tried.append(samples.batch))
    for name, free in (("padded", False), ("free", True)):
        recipe = support.mlm(name, train__deterministic=True, train__padding_free=free)
        ranks.built(process_group.connect(process_group.RankInfo()), ranks.ready(support.write(recipe, f"{name}.yaml")))
    torch.use_deterministic_algorithms(False)
    assert "attention_mask" in tried[0]["inputs"]
    assert len({*tried[1]["inputs"]["sequences"]["lengths"].lengths}) == 2


def test_such_an_operation_in_a_later_step_is_named_too():
    told = r"put_ has no deterministic algorithm, which train.deterministic requires \(false trains without\)"
    torch.use_deterministic_algorithms(True)
    with pytest.raises(RuntimeError, match=told), kernel_settings.explained():
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
    with pytest.raises(RuntimeError, match=r"^another$"), kernel_settings.explained():
        raise RuntimeError("another")
