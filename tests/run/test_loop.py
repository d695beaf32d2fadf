"""A gradient that is not finite, under every strategy: one rank's is everyone's, and changes nothing."""

import math
import os
import re
from pathlib import Path

import pytest
import ranks
import support
import walks

SINGLE = {"kind": "single"}
SPREAD = {
    1: [SINGLE],
    2: [
        {"kind": "ddp"},
        {"kind": "fsdp"},
        {"kind": "fsdp", "offload": True},
        {"kind": "fsdp", "tensor_parallel": 2},
        *({"kind": "deepspeed", "zero": stage} for stage in (0, 1, 2, 3)),
        {"kind": "deepspeed", "zero": 2, "offload": "optimizer"},
        {"kind": "deepspeed", "zero": 3, "offload": "all"},
    ],
}
CASES = [(world, strategy) for world in SPREAD for strategy in SPREAD[world]]
FIRST = "bert.encoder.layer.0.output.LayerNorm.bias"


def named(strategy):
    return ",".join(f"{key}={value}" for key, value in strategy.items()).removeprefix("kind=")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place, before = support.corpus(tmp_path_factory.mktemp("loop")), Path.cwd()
    os.chdir(place)
    model = {"kind": "config", "type": "bert", **support.TINY, "dropout": 0.1}
    yield place / ranks.ready(support.write(support.mlm(model=model)))
    os.chdir(before)


def poison(run, bad):
    """Have the gradient of the first layer's output be no number where `bad(step)`."""
    import torch

    def forward(module, inputs, output):
        first = output[0] if isinstance(output, tuple) else output
        if bad(run.progress.step) and first.requires_grad:
            first.register_hook(lambda gradient: torch.full_like(gradient, math.nan))

    layer = next(module for name, module in run.engine.module.named_modules() if name.endswith(".layer.0"))
    layer.register_forward_hook(forward)


def once(process, folder, strategies):
    """The second step's gradient is no number on the last rank. The records of four steps, and whether the state and
    what the rank itself holds stayed as they were."""
    return [_once(process, folder, strategy) for strategy in strategies]


def _once(process, folder, strategy):
    run = walks.build(process, folder, strategy)
    poison(run, lambda step: step == 1 and process.rank == process.world - 1)
    records = walks.take(run, 1)
    before = walks.held(run), walks.own(run)
    records += walks.take(run, 1)
    after = walks.held(run), walks.own(run)
    records += walks.take(run, 2)
    last = walks.whole(run)
    return {
        "records": records, "unchanged": before == after, "moved": walks.held(run) != after[0], "own": walks.own(run),
        "steps": {float(value) for name, value in last.items() if name.endswith(".step")},
    }  # fmt: skip


@pytest.fixture(scope="module")
def told(folder):
    """What each rank tells, by world and strategy."""
    every = {world: ranks.on_ranks(world, once, folder, strategies) for world, strategies in SPREAD.items()}
    return {
        (world, named(strategy)): [rank[number] for rank in every[world]]
        for world, strategies in SPREAD.items()
        for number, strategy in enumerate(strategies)
    }


@pytest.mark.parametrize(("world", "strategy"), CASES, ids=[named(strategy) for _, strategy in CASES])
def test_one_rank_without_a_number_skips_the_update_on_all_ranks_once(told, world, strategy):
    for rank in told[world, named(strategy)]:
        assert rank["unchanged"], "weights and moments"
        assert [record["skipped"] for record in rank["records"]] == [0, 1, 1, 1]
        assert [record["step"] for record in rank["records"]] == [1, 2, 3, 4]
        assert [math.isfinite(record["grad_norm"]) for record in rank["records"]] == [True, False, True, True]
        assert all(math.isfinite(record["loss"]) for record in rank["records"])
        assert rank["moved"]
        assert rank["steps"] == {3.0}, "the optimiser's count of its steps"


def test_every_rank_of_a_replica_holds_the_same_after_it(told):
    for kind in ("ddp", "deepspeed,zero=0", "deepspeed,zero=1", "deepspeed,zero=2"):
        one, other = told[2, kind]
        assert one["own"] == other["own"]


def test_what_follows_does_not_know_on_how_many_ranks_it_was(tmp_path, monkeypatch):
    """Without dropout, whose draws are each rank's own."""
    support.corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    dry = tmp_path / ranks.ready(support.write(support.mlm()))
    alone = ranks.on_ranks(1, once, dry, [SINGLE])[0][0]["records"]
    for told in ranks.on_ranks(2, once, dry, [{"kind": "fsdp"}, {"kind": "deepspeed", "zero": 2}])[0]:
        for there, here in zip(alone, told["records"], strict=True):
            assert here["loss"] == pytest.approx(there["loss"], rel=1e-5)
            assert here["data"] == there["data"]


def again(process, folder, strategy):
    """From the second step on no gradient is a number: what is raised, and after how many steps."""
    from launcher.run import loop

    run = walks.build(process, folder, strategy, {"abort_after": 3})
    poison(run, lambda step: step >= 1 and process.rank == process.world - 1)
    try:
        walks.take(run, 6)
    except loop.NotFinite as error:
        return str(error), run.progress.step
    return "", run.progress.step


@pytest.mark.parametrize(
    "strategy", [SINGLE, *({"kind": kind} for kind in ("ddp", "fsdp")), {"kind": "deepspeed", "zero": 3}], ids=named
)
def test_step_after_step_without_a_number_ends_the_run_and_names_where_it_began(folder, strategy):
    for message, taken in ranks.on_ranks(1 if strategy is SINGLE else 2, again, folder, strategy):
        pattern = (
            r"the gradient was not finite in 3 steps in a row, from step 2 on, where (\S+) \((\d+) of (\d+) "
            r"parameters\) went first \(lower optimizer\.lr, or look at the data of that step with launcher debug\)"
        )
        name, bad, of = re.fullmatch(pattern, message).groups()
        assert name == FIRST
        assert 0 < int(bad) < int(of)
        assert taken == 3, "steps that went by before the one that ended the run"


def overflow(process, folder, strategy, scale):
    """Two steps in fp16 from a loss scale."""
    run = walks.build(process, folder, strategy, {"precision": "fp16"})
    run.progress.scale.value = scale
    records = walks.take(run, 2)
    return records, {name: array.tobytes() for name, array in walks.whole(run).items()}


@pytest.mark.parametrize(
    "strategy",
    [SINGLE, {"kind": "ddp"}, {"kind": "fsdp"}, {"kind": "fsdp", "tensor_parallel": 2}]
    + [{"kind": "deepspeed", "zero": stage} for stage in (0, 1, 2, 3)],
    ids=named,
)
def test_an_overflow_repeats_the_batch_at_half_the_scale_and_never_decides_what_is_learnt(folder, strategy):
    """With dropout, which is drawn alike when the batch comes again."""
    world = 1 if strategy is SINGLE else 2
    (high, far), *_ = ranks.on_ranks(world, overflow, folder, strategy, 2.0**40)
    halved = high[0]["overflows"]
    assert halved > 5 and high[0]["scale"] == 2.0 ** (40 - halved)
    assert [record["skipped"] for record in high] == [0, 0]
    (low, near), *_ = ranks.on_ranks(world, overflow, folder, strategy, high[1]["scale"])
    assert [record["overflows"] for record in low] == [0, 0]
    for there, here in zip(low, high, strict=True):
        assert [here[key] for key in ("loss", "grad_norm", "data")] == [
            there[key] for key in ("loss", "grad_norm", "data")
        ]
    assert far == near
    if high[0]["overflows"] != high[1]["overflows"]:
        raise AssertionError("the second step overflowed too: nothing is compared")
