"""A gradient that is not finite, under every strategy: one rank's is everyone's, and changes nothing."""

import math
import os
import re
from pathlib import Path

import pytest
import support
from support import ranks, strategy_steps

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
def folders(tmp_path_factory):
    """Run folders of a model without dropout, and of one with it."""
    place, before = support.corpus(tmp_path_factory.mktemp("loop")), Path.cwd()
    os.chdir(place)
    wet = {"kind": "config", "type": "bert", **support.TINY, "dropout": 0.1}
    recipes = {"dry": support.mlm("dry"), "wet": support.mlm("wet", model=wet)}
    yield {name: place / ranks.ready(support.write(recipe, f"{name}.yaml")) for name, recipe in recipes.items()}
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
    run = strategy_steps.build(process, folder, strategy)
    poison(run, lambda step: step == 1 and process.rank == process.world - 1)
    records = strategy_steps.take(run, 1)
    before = strategy_steps.held(run.engine.state_dict()), strategy_steps.own(run)
    records += strategy_steps.take(run, 1)
    after = strategy_steps.held(run.engine.state_dict()), strategy_steps.own(run)
    records += strategy_steps.take(run, 2)
    last = run.engine.state_dict()
    return {
        "records": records,
        "unchanged": before == after,
        "moved": strategy_steps.held(last) != after[0],
        "own": strategy_steps.own(run),
        "steps": {float(value) for name, value in strategy_steps.whole(last).items() if name.endswith(".step")},
    }


@pytest.fixture(scope="module")
def told(folders):
    """What each rank tells, by world and strategy."""
    every = {world: ranks.on_ranks(world, once, folders["dry"], strategies) for world, strategies in SPREAD.items()}
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


@pytest.mark.parametrize("strategy", SPREAD[2], ids=named)
def test_what_follows_does_not_know_on_how_many_ranks_it_was(told, strategy):
    alone = told[1, "single"][0]["records"]
    for rank in told[2, named(strategy)]:
        for there, here in zip(alone, rank["records"], strict=True):
            assert here["loss"] == pytest.approx(there["loss"], rel=1e-5)
            assert here["data"] == there["data"]


def again(process, folder, strategy):
    """From the second step on no gradient is a number: what is raised, and after how many steps."""
    from launcher.train import gradient

    run = strategy_steps.build(process, folder, strategy, {"abort_after": 3})
    poison(run, lambda step: step >= 1 and process.rank == process.world - 1)
    try:
        strategy_steps.take(run, 6)
    except gradient.StaysNonFinite as error:
        return str(error), run.progress.step
    return "", run.progress.step


@pytest.mark.parametrize(
    "strategy", [SINGLE, *({"kind": kind} for kind in ("ddp", "fsdp")), {"kind": "deepspeed", "zero": 3}], ids=named
)
def test_step_after_step_without_a_number_ends_the_run_and_names_where_it_began(folders, strategy):
    for message, taken in ranks.on_ranks(1 if strategy is SINGLE else 2, again, folders["dry"], strategy):
        pattern = (
            r"the gradient was not finite in 3 steps in a row, from step 2 on, where (\S+) \((\d+) of (\d+) "
            r"parameters\) went first \(a new run may do better: another name, with a lower optimizer\.lr; "
            r"train\.abort_after=30 lets this one go through more such steps\)"
        )
        name, bad, of = re.fullmatch(pattern, message).groups()
        assert name == FIRST
        assert 0 < int(bad) < int(of)
        assert taken == 3, "steps that went by before the one that ended the run"


OVERFLOWING = {
    1: [SINGLE],
    2: [{"kind": "ddp"}, {"kind": "fsdp"}, {"kind": "fsdp", "tensor_parallel": 2}]
    + [{"kind": "deepspeed", "zero": stage} for stage in (0, 1, 2, 3)],
}


def overflow(process, folder, strategies):
    """Two steps in fp16 from a loss scale of 2^40, and from the one that it ended at: records and weights of both."""
    told = []
    for strategy in strategies:
        high = _from(process, folder, strategy, 2.0**40)
        told.append((high, _from(process, folder, strategy, high[0][-1]["scale"])))
    return told


def _from(process, folder, strategy, scale):
    run = strategy_steps.build(process, folder, strategy, {"precision": "fp16"})
    run.progress.scale.value = scale
    records = strategy_steps.take(run, 2)
    return records, {name: array.tobytes() for name, array in strategy_steps.whole(run.engine.state_dict()).items()}


@pytest.fixture(scope="module")
def overflown(folders):
    """What rank 0 tells, by strategy."""
    return {
        named(strategy): told
        for world, strategies in OVERFLOWING.items()
        for strategy, told in zip(
            strategies, ranks.on_ranks(world, overflow, folders["wet"], strategies)[0], strict=True
        )
    }


@pytest.mark.parametrize("strategy", [named(strategy) for world in OVERFLOWING for strategy in OVERFLOWING[world]])
def test_an_overflow_repeats_the_batch_at_half_the_scale_and_never_decides_what_is_learnt(overflown, strategy):
    """With dropout, which is drawn alike when the batch comes again."""
    (high, far), (low, near) = overflown[strategy]
    halved = high[0]["overflows"]
    assert halved > 5 and high[0]["scale"] == 2.0 ** (40 - halved)
    assert high[1]["overflows"] == halved and [record["overflows"] for record in low] == [0, 0]
    assert [record["skipped"] for record in high] == [0, 0]
    for there, here in zip(low, high, strict=True):
        for key in ("loss", "grad_norm", "data", "scale"):
            assert here[key] == there[key], key
    assert far == near, "weights and moments"


def waiting(process, folder):
    """Four steps, for which each rank waited another time: their records, what was agreed on, and what is kept."""
    import time

    from launcher.train import loop, step_sync

    run = strategy_steps.build(process, folder, {"kind": "ddp"}, {"padding_free": False})
    told = []
    for step in range(4):
        batch = run.batches.dataset[step]
        whole = step_sync.sync_step_info(process, batch, wait=0.5 + process.rank)
        told.append((loop.step(run, batch, whole, time.perf_counter()), whole, batch.tokens, batch.padded))
    return told, run.progress.state()


def test_a_record_tells_the_time_waited_and_the_part_of_the_computed_positions_that_holds_tokens(folders):
    """The slowest rank's wait, over the run; and the step's tokens over the positions of all ranks."""
    every = ranks.on_ranks(2, waiting, folders["dry"])
    for told, kept in every:
        assert [record["waited"] for record, *_ in told] == [1.5, 3.0, 4.5, 6.0]
        assert kept["waited"] == 6.0
    for step in range(4):
        counted = [told[step][2:] for told, _ in every]
        tokens, padded = (sum(numbers) for numbers in zip(*counted, strict=True))
        assert 0 < tokens <= padded
        for told, _ in every:
            record, whole, *_ = told[step]
            assert (whole.tokens, whole.padded) == (tokens, padded)
            assert record["fill"] == round(tokens / padded, 4)
    assert min(record["fill"] for record, *_ in every[0][0]) < 1


@pytest.mark.parametrize(("precision", "other"), [("fp16", " or train.precision=bf16"), ("bf16", ""), ("fp32", "")])
def test_what_is_advised_is_not_what_a_resume_refuses(precision, other):
    """What changes a run is advised for another name alone, and what is advised for this one changes nothing of it."""
    from launcher.config.recipe import Recipe, trajectory
    from launcher.train import gradient

    recipe = Recipe.model_validate(support.mlm(train__precision=precision, train__abort_after=7))
    this = "train.abort_after=70 lets this one go through more such steps"
    expected = f"a new run may do better: another name, with a lower optimizer.lr{other}; {this}"
    assert gradient._advice(recipe) == expected

    def changed(**keys):
        new = Recipe.model_validate(support.mlm(**{"train__precision": precision, **keys}))
        return trajectory(new) != trajectory(recipe)

    assert not changed(train__abort_after=70)
    assert changed(optimizer__lr=1e-4)
    assert precision == "bf16" or changed(train__precision="bf16")


def test_a_gradient_is_clipped_to_the_largest_norm():
    import torch

    from launcher.train import gradient

    def factor(norm, largest, scale=1.0):
        return float(gradient.factor(torch.tensor(norm, dtype=torch.float64), largest, scale))

    assert [factor(norm, 1.0) for norm in (0.5, 4.0)] == [1.0, pytest.approx(0.25)]
    assert factor(4.0, None) == 1.0 and factor(4.0, None, 8.0) == 0.125
    assert all(math.isnan(factor(norm, largest)) for norm in (math.inf, math.nan) for largest in (None, 1.0))


def evaluating(process, folder):
    """The stages of an evaluation that a rank goes through, the number of its micro-batches, and its own seconds, which
    all ranks learn at a step."""
    from dataclasses import replace

    from launcher.distributed.heartbeat import Heartbeat
    from launcher.train import loop, step_sync

    class Recorded(Heartbeat):
        def beat(self, stage, step=0, left=0):
            stages.append(stage.name)

    stages = []
    run = strategy_steps.build(process, folder, {"kind": "ddp"})
    loop.evaluate(replace(run, heartbeat=Recorded()))
    own = step_sync.sync_step_info(process, run.batches.dataset[0], own=0.5 + process.rank).own
    return stages, len(list(run.validation)), own


def test_every_micro_batch_of_an_evaluation_is_a_beat(folders):
    """So that a long one does not count as a hang."""
    for stages, parts, own in ranks.on_ranks(2, evaluating, folders["dry"]):
        assert stages == ["STARTING", *["EVALUATING"] * (1 + parts), "SCORING"] and parts > 0
        assert own == (0.5, 1.5)
