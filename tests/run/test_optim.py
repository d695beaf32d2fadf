import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from launcher.config.recipe import AdamW, Constant, Cosine, Linear, StepDecay, WarmupStableDecay
from launcher.run import optim

KINDS = [Constant, Linear, Cosine, WarmupStableDecay, lambda **o: StepDecay(every=10, **o)]


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(1, 3000), st.floats(0, 0.9), st.data())
def test_a_factor_is_in_0_to_1_and_a_function_of_the_step(kind, steps, warmup, data):
    schedule, step = kind(warmup=warmup), data.draw(st.integers(0, steps - 1))
    factor = optim.factor(schedule, step, steps)
    assert 0 <= factor <= 1
    assert factor == optim.factor(schedule, step, steps)


@pytest.mark.parametrize("kind", KINDS)
def test_the_warmup_climbs_from_one_nth_to_one(kind):
    assert [optim.factor(kind(warmup=4), step, 100) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert [optim.factor(kind(warmup=0.04), step, 100) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_schedules_against_their_formulas():
    assert [optim.factor(Linear(), s, 4) for s in range(4)] == [1, 0.75, 0.5, 0.25]
    assert optim.factor(Linear(floor=0.5), 2, 4) == 0.75
    assert optim.factor(Cosine(), 50, 100) == pytest.approx(0.5)
    assert optim.factor(Cosine(floor=0.1), 25, 100) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    stable = WarmupStableDecay(warmup=0.1, decay=0.2)
    assert [optim.factor(stable, s, 100) for s in (10, 79, 80, 90)] == pytest.approx([1, 1, 1, 0.5])
    assert [optim.factor(StepDecay(every=10), s, 100) for s in (0, 9, 10, 25)] == pytest.approx([1, 1, 0.1, 0.01])
    assert optim.factor(Constant(), 99, 100) == 1


def test_biases_and_norms_do_not_decay_and_the_frozen_are_left_out():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 2))
    model[2].weight.requires_grad_(False)
    groups = optim.adamw(AdamW(lr=0.1, weight_decay=0.3), model).param_groups
    assert [(len(g["params"]), g["weight_decay"], g["fused"]) for g in groups] == [(1, 0.3, True), (4, 0.0, True)]


def test_a_step_is_that_of_the_paper():
    """Loshchilov and Hutter, 2019, algorithm 2, at the first step: m = g, v = g^2 after the bias correction."""
    weight, gradient = torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor([[0.5, 0.1]], dtype=torch.float64)
    model = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)
    model.weight.data.copy_(weight)
    model.weight.grad = gradient.clone()
    optim.adamw(AdamW(lr=0.1, weight_decay=0.3), model).step()
    expected = weight * (1 - 0.1 * 0.3) - 0.1 * gradient / (gradient.abs() + 1e-8)
    assert torch.allclose(model.weight.data, expected, rtol=1e-12)
