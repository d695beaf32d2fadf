"""The contract of every learning-rate schedule kind: a new one is covered by being there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from launcher.config import kinds, plugins
from launcher.config.types import ScheduleConfig
from launcher.lr_schedules import Schedule

KINDS = kinds.available("lr_schedules")
MODULES = {kind: kinds.module("lr_schedules", kind) for kind in KINDS}
CLASSES = {kind: module.Schedule for kind, module in MODULES.items()}
REQUIRED = {"period": 0.1, "every": 10, "milestones": [0.3, 0.7], "gamma": 0.5}


def config(kind, **keys):
    """A Config with a value for each required key."""
    found = MODULES[kind].Config
    required = {name: REQUIRED[name] for name, field in found.model_fields.items() if field.is_required()}
    return found.model_validate({"kind": kind, **required, **keys})


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_the_module_name(kind):
    assert isinstance(config(kind), ScheduleConfig)
    assert config(kind).kind == kind
    assert isinstance(plugins.schedule(config(kind), 10), Schedule)
    with pytest.raises(ValidationError, match=r"unknown key \("):
        config(kind, no_such_key=1)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(st.integers(1, 3000), st.floats(0, 0.9), st.data())
def test_a_factor_is_between_0_and_1_and_a_function_of_the_step(kind, steps, warmup, data):
    try:
        chosen = config(kind, warmup=warmup)
    except ValidationError:  # one that warms up by itself
        chosen = config(kind)
    evaluations = data.draw(st.lists(st.tuples(st.integers(0, steps), st.floats(-5, 5)), max_size=5))
    step = data.draw(st.integers(0, steps - 1))
    schedule, again = (CLASSES[kind](chosen, steps) for _ in range(2))
    factor = schedule.factor(step, sorted(evaluations))
    assert 0 <= factor <= 1 + 1e-12
    assert factor == again.factor(step, sorted(evaluations))
    if not chosen.uses_evaluations:
        assert factor == schedule.factor(step)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_it_reaches_its_full_rate_and_its_end(kind, steps):
    """The rate is at its highest after the warmup, and lowest at the last step. A decay to a floor ends near it."""
    schedule = plugins.schedule(config(kind), steps)
    factors = [schedule.factor(step) for step in range(steps)]
    if kind != "cosine_restarts":
        assert factors[-1] == min(factors[schedule.warmup :][factors.index(max(factors)) :])
    if steps > 100:
        assert max(factors) == pytest.approx(1.0, abs=0.01)
    floor = getattr(schedule.config, "floor", None)
    if floor is not None and kind not in ("cosine_restarts", "plateau"):
        low = config(kind, floor=0.25)
        assert 0.25 <= plugins.schedule(low, 1000).factor(999) <= 0.26
        assert plugins.schedule(low, 1000).after_warmup(1000, ()) == pytest.approx(0.25)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "one_cycle"])  # which has no warmup
def test_a_warmup_longer_than_the_run_is_warned_of(kind):
    assert plugins.schedule(config(kind, warmup=9), 10).warnings(0.5) == []
    what = "10 steps, and the run has 10: the learning rate never gets to 0.5"
    advice = "(fewer steps, or a part of the run such as 0.06)"
    warnings = plugins.schedule(config(kind, warmup=10), 10).warnings(0.5)
    assert warnings == [("schedule.warmup", f"{what} {advice}")]
