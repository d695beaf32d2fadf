"""Whole runs under layouts: evaluated and saved in the middle, evaluated again on other ranks, gone on with."""

import json

import pytest
import support
from support import ranks, strategy_steps

NEOX = {
    "kind": "config", "type": "gpt_neox", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "dropout": 0.0,
}  # fmt: skip


def test_a_run_that_evaluates_and_saves_in_the_middle(workspace):
    """Gathered parameters that an evaluation leaves behind are none that are saved; an evaluation needs no layout."""
    layout = {"kind": "fsdp", "shard": "grad_op", "tensor_parallel": 2}
    file = support.write(support.mlm(strategy=layout, evaluate={"every": 2}, checkpoint={"every": 2}))
    support.launcher("run", file, "--ranks", 2)
    told = support.evaluations("runs/tiny")
    assert sorted(told) == [2, 4, 6]
    again = json.loads(support.launcher("evaluate", "runs/tiny", "--ranks", 1, "--json").stdout)
    assert again["eval/loss"] == pytest.approx(told[6]["eval/loss"], rel=1e-5)
    alone = support.write(support.mlm("alone", strategy="single", evaluate={"every": 2}), "alone.yaml")
    support.launcher("run", alone, "--ranks", 1)
    expected, got = support.steps("runs/alone"), support.steps("runs/tiny")
    assert {s: r["data"] for s, r in got.items()} == {s: r["data"] for s, r in expected.items()}
    assert [got[s]["loss"] for s in got] == pytest.approx([expected[s]["loss"] for s in got], rel=1e-5)
    assert support.evaluations("runs/alone")[6]["eval/loss"] == pytest.approx(told[6]["eval/loss"], rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_that_is_dealt_wrongly_is_refused_in_any_precision(workspace, precision):
    """GPT-NeoX fuses queries, keys and values head by head: rows dealt by part are others' heads."""
    recipe = support.classification(model=NEOX, train__precision=precision)
    folder = ranks.ready(support.write(recipe))
    for told in ranks.on_ranks(2, strategy_steps.refusal, folder, {"kind": "ddp", "tensor_parallel": 2}):
        assert told.startswith("strategy.tensor_parallel: the loss of a sample is ")


def test_a_debugged_run_goes_on_after_an_overflow(workspace):
    """fp16 at a rate that makes gradients overflow: the step is taken again, as in a run."""
    recipe = support.classification(
        train={"global_batch": 1, "steps": 12, "precision": "fp16"}, optimizer={"kind": "adamw", "lr": 0.5}
    )
    assert "step   8" in support.launcher("debug", support.write(recipe), "--steps", 8).stdout


def share(process, folder, strategy):
    """What this rank holds of the whole state, by count of numbers."""
    from launcher.strategies._torch_engine import local

    state = strategy_steps.build(process, folder, strategy).engine.state_dict()
    return sum(local(t).numel() for t in state.values()) / sum(t.numel() for t in state.values())


@pytest.mark.parametrize(
    ("model", "strategy", "world", "most"),
    [
        ("bert", {"kind": "ddp"}, 2, 1.0),
        ("bert", {"kind": "fsdp"}, 4, 0.27),
        ("bert", {"kind": "fsdp", "shard": "hybrid", "replicas": 2}, 4, 0.52),
        ("modernbert", {"kind": "fsdp", "tensor_parallel": 2}, 4, 0.4),  # what is not dealt is shared by two
        ("bert", {"kind": "deepspeed", "zero": 3}, 2, 0.52),
    ],
)
def test_sharding_shards(workspace, model, strategy, world, most):
    """A rank's part of weights and moments, rows that do not divide included; also of what is saved."""
    widths = {**support.TINY, "hidden_size": 64, "intermediate_size": 128}
    folder = ranks.ready(support.write(support.mlm(model={"kind": "config", "type": model, **widths})))
    parts = ranks.on_ranks(world, share, folder, strategy)
    assert max(parts) <= most and sum(parts) >= 0.999
