"""The memory of one rank of many, traced on fake tensors under every strategy, and its table."""

import json
from math import prod
from pathlib import Path

import support
from support import ranks

from launcher.config import kinds, load
from launcher.plan.memory import MemoryTrace
from launcher.prepare import run_setup
from launcher.tools.memory import memory_trace

WORLD = 16
UNTRACED = {"kind": "deepspeed", "zero": 3}


def layouts():
    """The layouts of every kind for 16 ranks and for one, with those that no kind proposes, as in a recipe."""
    kind = [kinds.module("strategies", name).Strategy for name in kinds.available("strategies")]
    found = [(config, world) for world in (1, WORLD) for one in kind for config in one.layouts(world)]
    named = [(config.model_dump(mode="json", exclude_unset=True) | {"kind": config.kind}, n) for config, n in found]
    others = [
        ({"kind": "ddp", "static_graph": True}, WORLD), ({"kind": "ddp", "compress": "bf16"}, WORLD),
        ({"kind": "fsdp", "offload": True, "prefetch": 1}, WORLD), ({"kind": "fsdp", "gather": "bf16"}, 1024),
    ]  # fmt: skip
    return [*named, *others]


def traces(process, folder, cases):
    """The trace under each strategy, and the shapes of the parameters with the bytes of the buffers."""
    import torch

    from launcher.config import plugins
    from launcher.plan import model_requirements
    from launcher.tools.memory import _memory_trace_process

    run, found = run_setup.load(folder), []
    for strategy, world, device, train in cases:
        recipe = run.recipe.model_dump(mode="json") | {"strategy": strategy}
        recipe["train"] |= {"global_batch": 2 * world, **train}
        question = {"recipe": recipe, "prepared": str(run.prepared), "ranks": world, "device": device, "on_host": []}
        found.append(_memory_trace_process.trace(question))
    with torch.device("meta"):
        requirements = model_requirements.of(run.recipe, run.facts)
        model = plugins.model(run.recipe.model).build(requirements, weights=False)[0]
    return found, [tuple(p.shape) for p in model.parameters()], sum(b.nbytes for b in model.buffers())


def held(shapes, shards):
    """Parameters of a rank: its rows of each, padded to an equal number of rows on every rank."""
    return sum(-(-shape[0] // shards) * prod(shape[1:]) for shape in shapes)


EXACT = [
    ({"kind": "single"}, 1, 1),
    ({"kind": "ddp"}, WORLD, 1),
    ({"kind": "fsdp", "shard": "full"}, WORLD, WORLD),
    ({"kind": "fsdp", "shard": "grad_op"}, WORLD, WORLD),
    ({"kind": "fsdp", "shard": "hybrid", "replicas": 2}, WORLD, WORLD // 2),
]
"""Layouts whose parameters are sharded by rows: strategy, ranks, and shards."""


def run_folder():
    return ranks.ready(support.write(support.mlm("traced", model__dropout=0.1))).absolute()


def test_every_layout_is_traced(workspace):
    """All layouts of up to 1,024 ranks, 40 s: alone proves that each kind runs on fake tensors, with dropout."""
    folder = run_folder()
    cases = [(*one, "cpu", {}) for one in layouts() if one[0] != UNTRACED and one not in [(s, n) for s, n, _ in EXACT]]
    alone = [[case] for case in cases if case[0]["kind"] == "deepspeed"]  # its groups are of one world a process
    for part in ([case for case in cases if case[0]["kind"] != "deepspeed"], *alone):
        for case, found in zip(part, ranks.on_ranks(1, traces, folder, part)[0][0], strict=True):
            trace = MemoryTrace.model_validate(found)
            assert not trace.problem, case
            assert {"weights", "optimizer"} <= trace.update.keys(), case
            assert sum(trace.purposes.values()) >= sum(trace.update.values()), case
            assert trace.stage.endswith(("step 1", "step 2")), case


def test_the_state_of_a_rank_is_its_exact_share(workspace):
    """Five layouts in one process, 10 s: alone proves that the bytes of weights, gradients and moments are exact."""
    cases = [(strategy, world, "cpu", {}) for strategy, world, _ in EXACT]
    found, shapes, buffers = ranks.on_ranks(1, traces, run_folder(), cases)[0]
    for (strategy, _, shards), one in zip(EXACT, found, strict=True):
        share, update = held(shapes, shards), one["update"]
        assert update["weights"] == 4 * share + buffers, strategy
        assert update["gradients"] == 4 * share, strategy
        assert update["optimizer"] == 8 * share + 4 * len(shapes), strategy  # two moments, and counts of steps


def test_precision_and_checkpointing_change_the_activations(workspace):
    """The traces of a model of 4 layers, 10 s. On CUDA, autocast copies weights in 16 bits; a CPU's does so too."""
    recipe = support.mlm("other", model__num_hidden_layers=4)
    folder = ranks.ready(support.write(recipe)).absolute()
    trains = ({}, {"precision": "bf16"}, {"activation_checkpointing": "layers"})
    cases = [({"kind": "ddp"}, 2, "cuda", train) for train in trains]
    plain, half, again = (one["purposes"] for one in ranks.on_ranks(1, traces, folder, cases)[0][0])
    assert "autocast copies" not in plain
    assert half["autocast copies"] > 0
    assert again["activations"] < plain["activations"]


def planned(recipe, *overrides):
    loaded = load.recipe(support.write(recipe), overrides)
    return run_setup.dry_run(loaded, load.cluster("local").value, 2), run_setup.pinned(loaded)


def test_without_data_or_for_zero_3_the_estimate_is_kept_with_the_reason(workspace):
    plan, recipe = planned(support.mlm("unprepared"))
    plan = plan.model_copy(update={"prepared": None})  # another test may have prepared the same data
    assert memory_trace.traced(plan, recipe).trace.problem == "known after `launcher prepare`"
    plan, recipe = planned(support.mlm("zero", strategy=UNTRACED))
    kept = memory_trace.traced(plan.model_copy(update={"prepared": "somewhere"}), recipe)
    assert "ZeRO 3" in kept.trace.problem
    assert kept.memory == plan.memory


def test_a_child_that_fails_gives_the_reason(monkeypatch, workspace):
    plan, recipe = planned(support.mlm("unreadable"))
    kept = memory_trace.traced(plan.model_copy(update={"prepared": str(Path("nowhere").absolute())}), recipe)
    assert kept.trace.problem.startswith("the rank cannot run on fake tensors: ")
    assert "nowhere" in kept.trace.problem


def test_the_command_prints_the_trace_beside_the_estimate(workspace):
    """The command with and without --json, each with a child: 15 s. Alone proves the way from the option to both."""
    file = support.write(support.mlm("shown", strategy={"kind": "fsdp"}))
    support.launcher("prepare", file)
    plan = json.loads(support.launcher("plan", file, "--ranks", 2, "--trace", "--json").stdout)
    assert plan["trace"]["purposes"]["weights"] > 0
    lines = support.launcher("plan", file, "--ranks", 2, "--trace").stdout.splitlines()
    head = next(n for n, line in enumerate(lines) if line.split()[-2:] == ["trace", "estimate"])
    assert lines[head].startswith("memory of one of 2 ranks")
    assert {line.split()[0] for line in lines[head:]} > {"weights", "gradients", "optimizer", "together", "of"}
