"""recipe x cluster -> Plan: every number decided, every mistake found, nothing started, and no torch."""

import io
import json
import subprocess
import sys

import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from launcher.config import format
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.contract.split import split
from launcher.plan import checks, layout, plan
from launcher.plan.facts import Facts
from launcher.plan.machine import ThisMachine
from launcher.plan.plan import Plan
from launcher.plan.topology import Devices
from launcher.tools import tables

CLUSTER = Cluster(name="two", device="cpu", devices_per_node=2, memory_per_device=16)

FACTS = Facts(
    digest="d" * 32, vocab_size=120, pad_token_id=0, mask_token_id=4, special_ids=[0, 1, 2, 3, 4], labels=[],
    longest=32, samples={"train": 100, "validation": 20}, tokens={"train": 2500, "validation": 500}, baseline={},
)  # fmt: skip


def made(facts: Facts | None = None, cluster: Cluster = CLUSTER, ranks: int | None = None, **changes) -> Plan:
    recipe = Recipe.model_validate(support.mlm(**changes))
    return plan.make(recipe, cluster, file="recipe.yaml", ranks=ranks, facts=facts)


def mistakes(**changes) -> list[str]:
    with pytest.raises(UserError) as told:
        made(**changes)
    return str(told.value).splitlines()


# The whole of it


def test_a_plan_decides_every_number(workspace):
    told = json.loads(made(FACTS, train__epochs=2.5, train__steps=None, checkpoint={"every": 5}).model_dump_json())
    of_this_machine = {"free_disk", "threads"}
    assert {name: told[name] > 0 for name in of_this_machine} == dict.fromkeys(of_this_machine, True)
    assert {name: value for name, value in told.items() if name not in of_this_machine} == {
        "name": "tiny",
        "folder": "runs/tiny",
        "prepared": None,
        "cluster": "two",
        "nodes": 1,
        "least_nodes": 1,
        "devices_per_node": 2,
        "ranks": 2,
        "tensor_parallel": 1,
        "device": "cpu",
        "strategy": "ddp",
        "mesh": {"replica": 2},
        "precision": "fp32",
        "global_batch": 12,
        "micro_batches": 2,
        "micro_samples": 3,
        "steps": 21,
        "epochs": 2.52,
        "samples": 252,
        "tokens": 6300,
        "fill": None,
        "documents": None,
        "held_out": {"validation": 20},
        "left_out": {},
        "sources": {},
        "model": "BertForMaskedLM",
        "parameters": 15048,
        "trained": 15048,
        "parts": {"embeddings": 10176, "layers": 4448, "head": 424},  # the head's largest weight is the embeddings
        "memory": {  # 17 widths of two layers and 96 tokens; 4.8 masked tokens a sample, of 120 logits, in four copies,
            # and the gradient of 120 x 16 weights;
            # twice the largest parameter, the embeddings of the positions
            "weights": 60192,
            "gradients": 60192,
            "optimizer": 120384,
            "activations": 208896 + 13824 + 7680,
            "buffers": 2 * 512 * 16 * 4,
            "checkpoint copy": 92336,  # each of the ranks writes half
        },
        "trace": None,
        "memory_per_device": 8 * 2**30,
        "checkpoint_bytes": 184672,
        "copy_bytes": 0,
        "checkpoints_kept": 2,
        "checkpoint_copy": 92336,
        "checkpoint_interval": "",
        "seconds_at_best": None,
        "predicted": None,
        "expected_seconds": None,
        "measured_in": "",
        "goodput": None,
        "price_per_hour": None,
        "cost": None,
        "hours_between_failures": None,
        "resume_from": None,
        "max_restarts": 0,
        "command": "launcher run recipe.yaml --ranks 2",
        "labels": "",
        "notes": [],
        "warnings": [],
    }


def test_a_plan_is_shown_as_a_table(workspace):
    out = io.StringIO()
    plain = made().model_copy(update={"free_disk": 3 * 2**30, "threads": 1})
    tables.print_plan(plain, Console(file=out, width=120))
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "run           tiny in runs/tiny",
        "ranks         2 ranks on cpu (1 thread each), ddp, fp32",
        "global batch  12 = 2 ranks x 2 micro-batches x 3 samples",
        "steps         6",
        "samples       known after `launcher prepare`",
        "tokens        known after `launcher prepare`",
        "model         BertForMaskedLM, 15,048 parameters (embeddings 10,176, layers 4,448, head 424)",
        "memory        about 524.1 KiB of 8.0 GiB a device (estimate: weights 58.8 KiB, gradients 58.8 KiB, "
        "optimizer 117.6 KiB,",
        "              activations 225.0 KiB, buffers 64.0 KiB), on top of the process itself: about 0.4 GiB a rank, "
        "and what the",
        "              allocator keeps of freed memory",
        "checkpoint    180.3 KiB; 2 kept and one being written take 541.0 KiB of 3.0 GiB free",
        "data          not prepared yet",
        "time          not known: no earlier run of this model, data and layout",
        "start         launcher run recipe.yaml --ranks 2",
    ]


def test_a_plan_counts_the_copies_in_memory_and_refuses_those_that_do_not_fit(workspace, monkeypatch):
    memory = workspace / "memory"
    monkeypatch.setenv("LAUNCHER_MEMORY", str(memory))
    told = f"checkpoint.memory: {memory}: no such folder for copies in memory"
    assert [line[: len(told)] for line in mistakes(checkpoint={"memory": 2})] == [told]
    with support.tmpfs(memory, "360k") as resize:
        told = f"checkpoint.memory: copies take 360.7 KiB of each node, 360.0 KiB are free at {memory} (a larger one"
        assert [line[: len(told)] for line in mistakes(checkpoint={"memory": 2})] == [told]
        resize("1m")
        found, out = made(checkpoint={"memory": "every 5 steps"}), io.StringIO()
        assert found.copy_bytes == 2 * found.checkpoint_bytes
        tables.print_plan(found, Console(file=out, width=120))
        assert "copies        360.7 KiB of each node's memory" in out.getvalue()


def test_a_plan_survives_its_file(workspace):
    one = made(FACTS)
    assert Plan.model_validate_json(one.model_dump_json()) == one


def test_nothing_is_written_but_what_was_counted(workspace):
    before = support.tree(workspace)
    made(FACTS)
    assert support.tree(workspace) == before


def test_the_command_of_a_plan_makes_the_same_plan_again(workspace):
    support.write(support.mlm(), "my recipe.yaml")
    one = support.launcher("plan", "my recipe.yaml", "--json", "--ranks", 2, "train.steps=7", "data.train.text=a b")
    command = json.loads(one.stdout)["command"]
    assert command == "launcher run 'my recipe.yaml' --ranks 2 train.steps=7 'data.train.text=a b'"


# The batch


@pytest.mark.parametrize(
    ("batch", "ranks", "max_tokens", "equation"),
    [
        (12, 1, 96, "12 = 1 rank x 4 micro-batches x 3 samples"),
        (12, 4, 96, "12 = 4 ranks x 1 micro-batch x 3 samples"),
        (12, 2, None, "12 = 2 ranks x 1 micro-batch x 6 samples"),
        (12, 12, 32, "12 = 12 ranks x 1 micro-batch x 1 sample"),
        (12, 5, 96, "12 ≤ 5 ranks x 1 micro-batch x 3 samples"),
        (13, 2, 96, "13 ≤ 2 ranks x 3 micro-batches x 3 samples"),
        (12, 2, 4096, "12 = 2 ranks x 1 micro-batch x 6 samples"),
    ],
)
def test_the_batch_equation(workspace, batch, ranks, max_tokens, equation):
    found = made(ranks=ranks, train__global_batch=batch, train__max_tokens=max_tokens)
    assert found.equation == equation


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(3, 64), st.integers(1, 20), st.booleans())
def test_the_equation_is_how_samples_of_full_length_are_split(batch, ranks, length, fit, limited):
    ranks = min(batch, ranks)
    most = fit * length + length // 2 if limited else None
    recipe = Recipe.model_validate(support.mlm(train={"global_batch": batch, "steps": 1, "max_tokens": most}))
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_length": length})})
    count, size = layout.micro(recipe, ranks, length)
    shares = split([length] * batch, ranks, most)
    assert {len(share) for share in shares} == {count}
    assert max(len(micro) for share in shares for micro in share) == size
    assert ranks * count * size >= batch


@pytest.mark.parametrize(
    ("epochs", "batch", "steps"), [(1, 10, 10), (1, 12, 9), (2.5, 12, 21), (0.001, 12, 1), (3, 2, 150), (1, 1000, 1)]
)
def test_epochs_only_set_the_number_of_steps(workspace, epochs, batch, steps):
    found = made(FACTS, train__epochs=epochs, train__steps=None, train__global_batch=batch)
    assert found.steps == steps
    assert found.samples == steps * batch
    assert found.epochs == steps * batch / 100


def test_steps_are_steps_whatever_the_data(workspace):
    assert made(FACTS).steps == made().steps == 6


def test_epochs_are_no_number_of_steps_before_the_data_is_prepared(workspace):
    found = made(train__epochs=2, train__steps=None)
    assert (found.steps, found.samples, found.tokens, found.epochs) == (None, None, None, 2)


# Where it runs


def test_ranks_come_from_the_command_line_then_the_profile_then_the_devices(workspace, monkeypatch):
    assert made(ranks=3).ranks == 3
    assert made().ranks == 2
    assert made(cluster=Cluster(device="cpu")).ranks == 1
    monkeypatch.setattr(plan.topology, "find", lambda cluster: Devices("cuda", 4, 2**34))  # no GPU is at hand
    assert made(cluster=Cluster()).ranks == 4
    assert made(cluster=Cluster()).memory_per_device == 2**34


def test_more_ranks_than_gpus_are_refused(workspace, monkeypatch):
    monkeypatch.setattr(plan.topology, "find", lambda cluster: Devices("cuda", 4, 2**34))  # no GPU is at hand
    told = "--ranks: 5 ranks for 4 GPUs (one each at the most, or --cluster with device: cpu)"
    assert mistakes(cluster=Cluster(), ranks=5) == [told]
    monkeypatch.setattr(plan.topology, "find", lambda cluster: Devices("cuda", 1, 2**34))
    assert mistakes(cluster=Cluster(), ranks=2) == [told.replace("5 ranks for 4 GPUs", "2 ranks for 1 GPU")]


@pytest.mark.parametrize("count", ["auto", 2])
def test_a_machine_without_the_gpus_that_its_profile_asks_for_is_reported(workspace, monkeypatch, count):
    monkeypatch.setattr(ThisMachine, "vendors", lambda machine: frozenset())
    told = "--cluster local: device: cuda: this machine has no such device: neither /dev/nvidia* nor /dev/kfd "
    advice = "is there (cluster.device=cpu trains on the CPU)"
    assert mistakes(cluster=Cluster(device="cuda", devices_per_node=count)) == [told + advice]
    assert made(cluster=Cluster(devices_per_node=count)).device == "cpu"


def test_a_sink_whose_package_is_not_installed_is_found_with_the_command_that_installs_it(monkeypatch):
    found = checks.find_spec
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name in ("tensorboard", "mlflow") else found(name))
    told = "sinks: {0} is not installed (pip install 'launcher[{0}]', or leave it out)"
    kinds = ["console", "tensorboard", "mlflow", {"kind": "wandb", "mode": "offline"}]
    assert mistakes(sinks=kinds) == [told.format("tensorboard"), told.format("mlflow")]


def test_a_plan_that_does_not_fit_is_refused(workspace):
    """What would fit instead: tests/plan/test_layout.py."""
    tight = Cluster(device="cpu", memory_per_device=0.0001)
    told = "strategy: about 524.1 KiB of 104.9 KiB a device: does not fit (nothing known fits on 1 rank: "
    advice = "a smaller model, or devices with more memory; memory_per_device of the cluster overrides it)"
    assert mistakes(cluster=tight) == [told + advice]


# Mistakes where keys meet


def test_all_that_is_wrong_is_reported_at_once(workspace):
    assert mistakes(
        ranks=16, train__max_tokens=16, evaluate={"every": 2}, data__validation=None, model__hidden_sise=4,
        tokenizer={"kind": "pretrained", "name": "./nowhere"},
    ) == [
        "train.global_batch: 12 samples cannot be shared by 16 ranks "
        "(at least one each: fewer ranks, or a larger batch)",
        "train.max_tokens: 16 is below one sample (data.max_length is 32: at least that, or shorter samples)",
        "evaluate: there is nothing to evaluate on (add data.validation)",
        "tokenizer.name: ./nowhere: no such folder",
        "model.hidden_sise: unknown key of BertConfig (did you mean hidden_size?)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model__type": "brt"}, "model.type: unknown type 'brt' (did you mean bert?)"),
        ({"model__num_attention_heads": 3},
         "model: The hidden size (16) is not a multiple of the number of attention heads (3)"),
        ({"model__max_position_embeddings": 16},
         "data.max_length: 32 tokens, but BertForMaskedLM has positions for 16 "
         "(shorter samples, or more max_position_embeddings)"),
        ({"model": {"kind": "run", "run": "runs/none"}, "tokenizer": None},
         "model.run: runs/none: no run is there (train it first: its recipe names the folder)"),
        ({"data__validation__fraction": 0.6},
         "data.validation.fraction: more than half of the data would be held out"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_built_is_reported_with_its_key(workspace, changes, told):
    assert mistakes(**changes) == [told]


def test_a_disk_too_small_for_a_checkpoint_is_reported(workspace, monkeypatch):
    monkeypatch.setattr(plan.checks, "free_bytes", lambda path: 1000)  # a real small disk: tests/test_bad_input.py
    told = "checkpoint: a checkpoint takes 180.3 KiB, 1000 B are free at runs/tiny/checkpoints (make room there)"
    assert mistakes() == [told]


def test_what_has_been_found_before_is_reported_first(workspace):
    recipe = Recipe.model_validate(support.mlm())
    with pytest.raises(UserError) as told:
        plan.make(recipe, CLUSTER, file="recipe.yaml", ranks=13, wrong=["data.train.path: gone"])
    assert [str(problem).split(":")[0] for problem in told.value.problems] == ["data.train.path", "train.global_batch"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 << 20, "1.5 GiB"), (1 << 50, "1024.0 TiB")],
)
def test_bytes_are_said_as_a_person_reads_them(size, text):
    assert format.human(size) == text


# Without torch

TORCH_FREE = """
import importlib, pkgutil, sys
import launcher

STARTED_ONLY = {  # by whoever starts ranks, and in ranks
    "launcher.plan._model_spec_process", "launcher.launch.local_agent", "launcher.launch.node_agent",
    "launcher.launch.rank_jobs", "launcher.launch._rank_imports",
}

def walk(name):
    module = importlib.import_module(name)
    for inner in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if f"{name}.{inner.name}" not in STARTED_ONLY:
            walk(f"{name}.{inner.name}")

for package in ("config", "contract", "storage", "plan", "launch", "schedulers", "cli"):
    walk(f"launcher.{package}")
for folder in ("data", "lr_schedules", "models", "optimizers", "sinks", "strategies", "tasks"):
    package = importlib.import_module(f"launcher.{folder}")
    for inner in pkgutil.iter_modules(package.__path__):
        if not inner.name.startswith("_"):
            importlib.import_module(f"launcher.{folder}.{inner.name}")

from launcher import cli
sys.argv = ["launcher", *sys.argv[1:]]
try:
    cli.main()
except SystemExit as end:
    assert not end.code, end.code
heavy = sorted({"torch", "transformers", "datasets", "pyarrow.compute", "rich.progress"} & set(sys.modules))
print("imported:", heavy, "launcher.plan.plan" in sys.modules)
"""


@pytest.mark.parametrize("arguments", [["plan", "recipe.yaml"], ["--help"], ["run", "--help"]])
def test_planning_and_help_import_no_heavy_module(workspace, arguments):
    support.write(support.mlm())
    done = subprocess.run([sys.executable, "-c", TORCH_FREE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported: [] True"
    assert ("global batch" if arguments[0] == "plan" else "Usage") in done.stdout


def test_a_stride_of_most_of_a_sample_is_refused(workspace):
    task = {"kind": "mlm", "samples": "documents", "overflow": "split", "stride": 17}
    what = "17 of 32 tokens: most of a sample would be the one before it again (at most 16)"
    assert mistakes(task=task) == [f"task.stride: {what}"]
