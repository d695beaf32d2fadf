"""Flash attention runs on GPUs, in half precision, and only if a package has it: a plan says so."""

import pytest
import support

from launcher.config import load
from launcher.config.recipe import Recipe
from launcher.plan import attention_kernels, model_requirements, model_spec, topology
from launcher.plan.facts import guess
from launcher.plan.padding_probe import Padding

HUB = "kernels-community/flash-attn2"


def recipe(**changes):
    return Recipe.model_validate(support.mlm(**{"train__precision": "bf16", **changes}))


def found(kernel="flash_attention_2", device="cuda", trains=True, cluster="local", **changes):
    profile = load.cluster(cluster).value
    world = topology.World(profile, topology.Devices(device, 1, 2**30), 1)
    planned = recipe(model__attention=kernel, **changes)
    return [str(problem) for problem in attention_kernels.problems(planned, world, trains)]


@pytest.fixture
def installed(monkeypatch):
    """The modules that are installed; at first none."""
    modules = set()
    monkeypatch.setattr(attention_kernels, "find_spec", lambda name: name in modules or None)
    return modules


@pytest.mark.parametrize(
    ("kernel", "module", "package"),
    [
        ("flash_attention_2", "flash_attn", "flash-attn or kernels"),
        ("flash_attention_3", "flash_attn_interface", "flash-attn-3 or kernels"),
        (HUB, "kernels", "kernels"),
    ],
)
def test_a_package_that_is_missing_is_named(installed, monkeypatch, kernel, module, package):
    monkeypatch.setattr("launcher.config.trust.check", lambda *names: None)
    told = f"model.attention: {kernel} needs the package {package}, which is not installed (pip install it, or"
    assert found(kernel) == [f"{told} attention: sdpa)"]
    assert found(kernel, cluster="slurm-a100-8x") == []  # nothing is known of a machine that is not this one
    installed.add(module)
    assert found(kernel) == []


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp64"])
def test_full_precision_is_refused(installed, precision):
    installed.add("kernels")
    told = f"flash_attention_2 computes in bf16 and fp16 only, and train.precision is {precision} (bf16, or attention:"
    assert found(train__precision=precision) == [f"model.attention: {told} sdpa)"]
    assert found(train__precision="fp16") == []
    assert found("sdpa", train__precision=precision) == found(None, train__precision=precision) == []


def test_a_cpu_cannot_train_with_it_and_evaluates_without():
    told = "model.attention: flash_attention_2 runs on GPUs only, and these ranks run on the CPU (attention: sdpa)"
    assert found(device="cpu") == [told]
    assert found(device="cpu", trains=False) == []
    there = recipe(model__attention="flash_attention_2")
    assert attention_kernels.runnable(there, "cpu") == recipe()
    assert attention_kernels.runnable(there, "cuda") == there
    eager = recipe(model__attention="eager")
    assert attention_kernels.runnable(eager, "cpu") == eager


def test_a_teacher_has_a_kernel_of_its_own():
    task = {
        "kind": "distillation",
        "task": {"kind": "mlm"},
        "teacher": {"name": "./t", "attention": "flash_attention_2"},
    }
    told = "flash_attention_2 runs on GPUs only, and these ranks run on the CPU (attention: sdpa)"
    assert found(None, device="cpu", task=task) == [f"task.teacher.attention: {told}"]


def test_a_plan_counts_and_tries_such_a_model_on_a_machine_without_a_gpu(workspace):
    flash, plain = (recipe(model__attention=kernel) for kernel in ("flash_attention_2", None))
    shapes = [model_spec.count(one, model_requirements.of(one, guess(one))) for one in (flash, plain)]
    assert shapes[0] == shapes[1] and shapes[0].padding is Padding.RIGHT


def test_the_command_tells_all_of_it_at_once_and_an_architecture_without_it_is_refused(workspace):
    fnet = {"kind": "config", "type": "fnet", "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
    file = support.write(support.mlm(model={**fnet, "attention": "flash_attention_2"}))
    done = support.launcher("plan", file, code=2)
    assert "Traceback" not in done.stderr
    told = [line.partition("model.attention: ")[2] for line in done.stderr.splitlines()]
    assert told == [
        "flash_attention_2 computes in bf16 and fp16 only, and train.precision is fp32 (bf16, or attention: sdpa)",
        "flash_attention_2 runs on GPUs only, and these ranks run on the CPU (attention: sdpa)",
        "transformers has no flash attention for FNetForMaskedLM, so no flash_attention_2 (sdpa or eager)",
    ]
