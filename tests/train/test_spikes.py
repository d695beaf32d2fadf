"""The usual range of loss and gradient norm, and steps outside of it under every strategy."""

import dataclasses
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import support
import torch
from support import ranks, strategy_steps

from launcher.config.recipe import Recipe, trajectory
from launcher.config.training import Spike
from launcher.train import gradient, spikes
from launcher.train.training_run import Progress

CONFIG = Spike(history=32)
SPREAD = {
    1: [{"kind": "single"}],
    2: [
        {"kind": "ddp"},
        {"kind": "fsdp"},
        {"kind": "fsdp", "tensor_parallel": 2},
        *({"kind": "deepspeed", "zero": stage} for stage in (0, 1, 3)),
        {"kind": "deepspeed", "zero": 2, "offload": "optimizer"},
    ],
}


def found(losses, norms=None, config=CONFIG):
    """The steps that are spikes, of these losses and norms, if spikes change nothing."""
    recipe = Recipe.model_validate(support.mlm(train__on_spike="skip", train__spike=config.model_dump()))
    progress, out = Progress(), []
    for step, (loss, norm) in enumerate(zip(losses, norms or [1.0] * len(losses), strict=True), start=1):
        usual = spikes.limits(progress.recent, step, config)
        spike = bool(usual.exceeded(*torch.tensor([loss, norm], dtype=torch.float64)))
        out += [step] if spike else []
        if math.isfinite(loss) and math.isfinite(norm):
            spikes.observe(progress, recipe, (step, loss, norm), spike)
    assert progress.spikes == len(out) and len(progress.recent) <= config.history + 1
    return out


@pytest.mark.parametrize("seed", range(3))
def test_a_curve_with_warm_up_decay_and_noise_has_no_spike(seed):
    draw, steps = np.random.default_rng(seed), np.arange(4000)
    losses = (2.5 + 8 * np.exp(-steps / 150)) * (1 + 0.02 * draw.standard_normal(len(steps)))
    norms = np.minimum(1, steps / 100 + 0.2) * np.exp(0.3 * draw.standard_normal(len(steps))) * (1 + 2e-4 * steps)
    assert found(losses.tolist(), norms.tolist(), Spike()) == []
    assert found((losses - 5).tolist(), norms.tolist(), Spike()) == [], "a loss below zero"


def test_a_loss_or_norm_far_above_its_range_is_a_spike_and_a_low_one_is_none():
    losses, norms = [2.0 + 0.1 * (step % 5) for step in range(60)], [1.0 + 0.1 * (step % 3) for step in range(60)]
    losses[30], losses[33], norms[40], norms[44] = 6.0, 0.1, 50.0, 1e-9
    losses[50], norms[51], losses[52] = math.nan, math.inf, math.inf
    assert found(losses, norms) == [31, 41]
    assert found([9.0] * 3 + [1e9] + [9.0] * 5) == [], "too few steps are known"
    assert found([0.0] * 30 + [1e-9]) == [], "a range of no width is none"


def test_the_last_step_decides_nothing_since_a_device_may_still_compute_it():
    recent = [(step, 2.0 + step % 3, 1.0 + step % 2) for step in range(1, 31)]
    assert spikes.limits(recent, 31, CONFIG) == spikes.limits(recent[:-1], 31, CONFIG)
    assert spikes.limits(recent[:-1], 31, CONFIG) != spikes.limits(recent, 32, CONFIG)


def test_a_new_level_becomes_usual_where_spikes_only_tell():
    recipe, progress = Recipe.model_validate(support.mlm()), Progress()
    for step in range(1, 200):
        loss = (1.0 if step < 50 else 20.0) + step % 2
        usual = spikes.limits(progress.recent, step, CONFIG)
        spikes.observe(progress, recipe, (step, loss, 1.0), loss > usual.loss.limit)
    assert 1 <= progress.spikes < 20 and progress.spikes_in_a_row == 0


def test_keys_of_spikes_are_part_of_the_trajectory_where_they_change_it():
    def keys(**changes):
        return trajectory(Recipe.model_validate(support.mlm(**{f"train__{k}": v for k, v in changes.items()})))

    plain = keys()
    assert plain == keys(spike={"factor": 9.0, "leave_out": 3}) and keys(on_spike="skip") != plain
    assert keys(on_spike="skip") == keys(on_spike="skip", spike={"leave_out": 3})
    assert keys(on_spike="skip") != keys(on_spike="skip", spike={"factor": 9.0})
    assert keys(on_spike="roll_back") != keys(on_spike="roll_back", spike={"leave_out": 3})


def usual(step):
    """Results before a step after which each one of a run is a spike."""
    return [(number, -10.0 + 0.01 * (number % 5), 1e-9 * (1 + number % 2)) for number in range(step - 40, step)]


def skip(process, folder, strategies):
    """The second step is a spike. Whether state and weights stayed as they were, and the records of four steps."""
    told = []
    for strategy in strategies:
        run = strategy_steps.build(process, folder, strategy, {"on_spike": "skip"})
        records = strategy_steps.take(run, 1)
        before = strategy_steps.held(run.engine.state_dict()), strategy_steps.own(run)
        run.progress.recent = usual(1)
        records += strategy_steps.take(run, 1)
        same = before == (strategy_steps.held(run.engine.state_dict()), strategy_steps.own(run))
        run.progress.recent = []
        records += strategy_steps.take(run, 2)
        state = strategy_steps.whole(run.engine.state_dict())
        told.append((same, records, {float(value) for name, value in state.items() if name.endswith(".step")}))
    return told


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place, before = support.corpus(tmp_path_factory.mktemp("spikes")), Path.cwd()
    os.chdir(place)
    yield place / ranks.ready(support.write(support.mlm("dry"), "dry.yaml"))
    os.chdir(before)


def test_every_strategy_skips_a_finite_gradient_without_a_trace(folder):
    alone = ranks.on_ranks(1, skip, folder, SPREAD[1])[0][0][1]
    for world, strategies in SPREAD.items():
        for told in ranks.on_ranks(world, skip, folder, strategies):
            for strategy, (same, records, steps) in zip(strategies, told, strict=True):
                assert same and steps == {3.0}, strategy
                assert [record.get("spike", 0) for record in records] == [0, 1, 0, 0], strategy
                assert all(math.isfinite(record["grad_norm"]) for record in records)
                assert [r["loss"] for r in records] == pytest.approx([r["loss"] for r in alone], rel=1e-5), strategy


def stay(process, folder):
    """Every step is a spike: what is raised, and the step before it."""
    from launcher.train import loop

    run = strategy_steps.build(process, folder, {"kind": "ddp"}, {"on_spike": "skip", "abort_after": 3})
    run.progress.recent = usual(1)
    try:
        loop.train(dataclasses.replace(run, steps=6, until=6))
    except spikes.SpikesStay as error:
        return str(error), run.progress.step
    return "", run.progress.step


def test_spike_after_spike_ends_the_run(folder):
    for message, step in ranks.on_ranks(2, stay, folder):
        assert message == spikes.stay_message(3, 3, 3) and step == 2
        assert "3 times in a row, the last time at step 3 (a new run may do better" in message


def test_a_spike_has_no_factor_unless_it_only_tells():
    recipe = Recipe.model_validate(support.mlm())
    skips = Recipe.model_validate(support.mlm(train__on_spike="skip"))
    norm, spike = torch.tensor(1.0, dtype=torch.float64), torch.tensor(True)
    found = gradient.Gradient(None, 1.0, norm, spike, None)
    assert gradient.factor_of_step(found, recipe, 1.0) == pytest.approx(1.0)
    assert gradient.factor_of_step(found, skips, 1.0).isnan()


def test_a_save_keeps_a_checkpoint_from_before_what_the_next_spike_leaves_out(workspace):
    recipe = support.small("x", train__on_spike="roll_back", train__spike={"leave_out": 12}, checkpoint={"keep": 2})
    folder = ranks.ready(support.write(recipe))
    assert ranks.on_ranks(1, counts, folder)[0] == [2, 3, 3, 2]


def counts(process, folder):
    """The checkpoints that a save at step 30 would keep, of those before."""
    run = strategy_steps.build(process, folder, {"kind": "single"})
    run.progress.step = 30
    told = []
    for earlier in ([], [10, 15, 25], [10, 19, 29], [10, 18]):
        saved = [SimpleNamespace(step=step) for step in earlier]
        told.append(spikes.kept(dataclasses.replace(run, folder=SimpleNamespace(whole=lambda saved=saved: saved))))
    return told
