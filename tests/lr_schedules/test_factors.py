"""The learning rate is a pure function of the step, and torch's own schedulers walk the same way."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.optim import lr_scheduler

from launcher.config import kinds

NAMES = (
    "constant", "linear", "cosine", "cosine_restarts", "polynomial", "exponential", "warmup_stable_decay", "step",
    "multi_step", "one_cycle", "plateau",
)  # fmt: skip
(
    Constant, Linear, Cosine, CosineRestarts, Polynomial, Exponential, WarmupStableDecay, StepDecay, MultiStep,
    OneCycle, Plateau,
) = (kinds.module("lr_schedules", name).Config for name in NAMES)  # fmt: skip


CLASSES = {name: kinds.module("lr_schedules", name).Schedule for name in NAMES}


def factor(config, step, steps, evaluations=()):
    return CLASSES[config.kind](config, steps).factor(step, evaluations)


KINDS = [
    Constant,
    Linear,
    Cosine,
    WarmupStableDecay,
    Polynomial,
    Plateau,
    lambda **o: StepDecay(every=10, **o),
    lambda **o: MultiStep(milestones=[0.3, 0.7], **o),
    lambda **o: Exponential(gamma=0.99, **o),
    lambda **o: CosineRestarts(period=0.1, factor=1.5, **o),
]


@pytest.mark.parametrize("kind", [*KINDS, lambda warmup: OneCycle(peak_at=max(0.01, warmup))])
@settings(deadline=None)
@given(st.integers(1, 3000), st.floats(0, 0.9), st.data())
def test_a_factor_is_in_0_to_1_and_a_function_of_the_step(kind, steps, warmup, data):
    schedule, step = kind(warmup=warmup), data.draw(st.integers(0, steps - 1))
    told = factor(schedule, step, steps)
    assert 0 <= told <= 1 + 1e-12
    assert told == factor(schedule, step, steps)


@pytest.mark.parametrize("kind", KINDS)
def test_the_warmup_climbs_from_one_nth_to_one(kind):
    assert [factor(kind(warmup=4), step, 100) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert [factor(kind(warmup=0.04), step, 100) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_schedules_against_their_formulas():
    assert [factor(Linear(), s, 4) for s in range(4)] == [1, 0.75, 0.5, 0.25]
    assert factor(Linear(floor=0.5), 2, 4) == 0.75
    assert factor(Cosine(), 50, 100) == pytest.approx(0.5)
    assert factor(Cosine(floor=0.1), 25, 100) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    stable = WarmupStableDecay(warmup=0.1, decay=0.2)
    assert [factor(stable, s, 100) for s in (10, 79, 80, 90)] == pytest.approx([1, 1, 1, 0.5])
    assert [factor(StepDecay(every=10), s, 100) for s in (0, 9, 10, 25)] == pytest.approx([1, 1, 0.1, 0.01])
    assert factor(Constant(), 99, 100) == 1
    assert [factor(MultiStep(milestones=[0.5, 0.75], gamma=0.5), s, 8) for s in (3, 4, 5, 6)] == [1, 0.5, 0.5, 0.25]
    assert [factor(Exponential(gamma=0.25, every=10, warmup=2), s, 99) for s in (2, 7, 12)] == [1, 0.5, 0.25]
    assert factor(Polynomial(power=2, floor=0.2), 50, 100) == pytest.approx(0.2 + 0.8 / 4)
    restarts = CosineRestarts(period=0.1, factor=1.5, floor=0.5, warmup=5)
    assert [factor(restarts, s, 100) for s in (5, 10, 15, 30)] == pytest.approx([1, 0.75, 1, 1])
    line = OneCycle(peak_at=0.5, start_factor=0.5, end_factor=0.1, anneal="linear")
    assert [factor(line, s, 11) for s in (0, 10)] == pytest.approx([0.5, 0.1])


# Against torch


def rates(make, steps):
    """What torch's scheduler has a rate of 1 be at each step."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


STEPS = 60
OWN = [
    (Constant(), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
    (Linear(floor=0.25), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.25, STEPS)),
    (Cosine(floor=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, 0.1)),
    (StepDecay(every=7, gamma=0.5), lambda o: lr_scheduler.StepLR(o, 7, 0.5)),
    (MultiStep(milestones=[3, 31, 32], gamma=0.3), lambda o: lr_scheduler.MultiStepLR(o, [3, 31, 32], 0.3)),
    (Exponential(gamma=0.9), lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    (CosineRestarts(period=7, factor=2, floor=0.1), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7, 2, 0.1)),
    (CosineRestarts(period=7), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7)),
    (Polynomial(power=3), lambda o: lr_scheduler.PolynomialLR(o, STEPS, 3)),
    *(
        (
            OneCycle(peak_at=peak, start_factor=1 / 20, end_factor=1 / 2000, anneal=anneal),
            lambda o, peak=peak, anneal=anneal: lr_scheduler.OneCycleLR(
                o, 1.0, STEPS, pct_start=peak, anneal_strategy=anneal[:3] if anneal == "cosine" else anneal,
                cycle_momentum=False, div_factor=20, final_div_factor=100,
            ),
        )
        for peak in (0.3, 0.37)
        for anneal in ("cosine", "linear")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "own"), OWN, ids=[ours.kind for ours, _ in OWN])
def test_every_step_is_that_of_torch(ours, own):
    assert [factor(ours, step, STEPS) for step in range(STEPS)] == pytest.approx(rates(own, STEPS), rel=1e-9)


@pytest.mark.parametrize("sign", [1, -1], ids=["less is better", "more is better"])
@settings(deadline=None)
@given(
    values=st.lists(st.floats(0.01, 5), max_size=40),
    patience=st.integers(0, 3),
    cooldown=st.integers(0, 3),
    threshold=st.sampled_from([0.0, 1e-4, 0.3]),
    floor=st.sampled_from([0.0, 0.2]),
)
def test_a_plateau_is_that_of_torch(sign, values, patience, cooldown, threshold, floor):
    """What is better when more is turned round in the history, as the loop does."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    own = lr_scheduler.ReduceLROnPlateau(
        optimizer, "min" if sign == 1 else "max", 0.5, patience, threshold, cooldown=cooldown, min_lr=floor, eps=0.0
    )
    ours = Plateau(factor=0.5, patience=patience, threshold=threshold, cooldown=cooldown, floor=floor)
    history = [(10 * number, sign * value) for number, value in enumerate(values)]
    for number, value in enumerate(values):
        own.step(value)
        rate = optimizer.param_groups[0]["lr"]
        assert factor(ours, 10 * number, 1000, history) == rate
        assert factor(ours, 10 * number + 9, 1000, history[: number + 1]) == rate, "what comes later does not count"


def test_evaluations_during_the_warmup_count():
    history = [(0, 1.0), (2, 2.0), (4, 2.0)]
    plateau = Plateau(warmup=5, patience=1)
    assert [factor(plateau, step, 100, history) for step in (3, 4, 5)] == [0.8, 1.0, 0.1]


# What is refused


@pytest.mark.parametrize(
    ("kind", "keys", "told"),
    [
        (Linear, {"warmup": 1.5}, "is a fraction below 1 or a whole number of steps"),
        (MultiStep, {"milestones": [5, 3]}, "should be in ascending order, each once"),
        (MultiStep, {"milestones": [3, 3]}, "should be in ascending order, each once"),
        (MultiStep, {"milestones": [0.5, 3]}, "should be all fractions of the run, or all steps"),
        (MultiStep, {"milestones": []}, "should have at least 1 entry"),
        (OneCycle, {"warmup": 0.1}, "one_cycle warms up by itself (set peak_at and start_factor instead)"),
        (Plateau, {"factor": 1}, "should be less than 1"),
        (CosineRestarts, {"period": 0}, "should be greater than 0"),
        (CosineRestarts, {"period": 5, "factor": 0.5}, "should be greater than or equal to 1"),
    ],
)
def test_what_is_no_schedule_is_told(kind, keys, told):
    with pytest.raises(ValidationError) as error:
        kind(**keys)
    assert [e["msg"] for e in error.value.errors()] == [told]
