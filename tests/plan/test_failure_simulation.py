"""Simulated failures, against Daly's formula and what holds whatever the costs."""

from math import ceil, exp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.plan import failure_simulation
from launcher.plan.failure_simulation import Costs, SimulatedJob


def daly(job, costs):
    """Expected wall-clock seconds (Daly, 2006, eq. 13): with saves and restarts that failures hit too."""
    between, interval = job.between_failures, job.every * costs.step
    cycles = job.steps / job.every
    return between * exp(costs.start / between) * (exp((interval + costs.save) / between) - 1) * cycles


@pytest.mark.parametrize("every", [20, 100, 500, 2000])
@pytest.mark.parametrize("hours", [0.5, 2, 10])
def test_the_mean_is_that_of_dalys_formula(every, hours):
    job, costs = SimulatedJob(20_000, every, hours * 3600), Costs(step=1.0, save=10.0, start=60.0)
    found = failure_simulation.simulate(job, costs, 400, seed=1)
    assert found.finished.all()
    assert found.mean.total == pytest.approx(daly(job, costs), rel=0.05)
    assert found.mean.goodput == pytest.approx(20_000 / daly(job, costs), rel=0.05)


def test_the_interval_of_the_formula_is_the_best_of_the_simulation():
    costs, between = Costs(step=1.0, save=10.0, start=60.0), 7200.0
    best = failure_simulation.optimal_every(costs, between)
    goodput = {
        every: failure_simulation.simulate(SimulatedJob(50_000, every, between), costs, 200, seed=2).goodput.mean()
        for every in (best // 4, best // 2, best, best * 2, best * 4)
    }
    assert max(goodput, key=goodput.get) == best


def test_without_failures_a_run_takes_its_steps_saves_evaluations_and_one_start():
    costs = Costs(step=2.0, save=3.0, start=5.0, durable=7.0, evaluate=0.5)
    found = failure_simulation.simulate(SimulatedJob(100, 30, 1e15), costs, 3, seed=0)
    parts = {purpose: seconds for purpose, seconds in found.mean.parts.items() if seconds}
    assert parts == pytest.approx({"start": 5, "compute": 200, "evaluate": 100, "save": 4 * 3 + 7})
    assert not found.failures.any()


COSTS = st.builds(
    Costs, step=st.floats(0.1, 10), save=st.floats(0, 60), start=st.floats(0, 300), durable=st.floats(0, 300),
    detect=st.floats(0, 60), requeue=st.floats(0, 600), repair=st.floats(0, 1e5), evaluate=st.floats(0, 0.5),
)  # fmt: skip


@given(COSTS, st.integers(1, 3000), st.integers(1, 500), st.floats(100, 1e6), st.integers(0, 3))
def test_whatever_the_costs_the_steps_are_done_once_and_nothing_is_negative(costs, steps, every, between, spares):
    job = SimulatedJob(steps, every, between, spares)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(failure_simulation, "_MOST_FAILURES", 300)
        found = failure_simulation.simulate(job, costs, 5, seed=3)
    assert all((values >= 0).all() for values in found.seconds.values())
    assert found.seconds["compute"][found.finished] == pytest.approx(steps * costs.step)
    least = steps * costs.step * (1 + costs.evaluate) + ceil(steps / every) * costs.save + costs.durable
    total = np.sum(list(found.seconds.values()), axis=0)
    assert (total[found.finished] >= (least + costs.start) * (1 - 1e-9)).all()
    assert (found.seconds["down"] >= found.failures * costs.detect * (1 - 1e-9)).all()


def test_a_spare_saves_the_wait_until_it_is_taken():
    costs = Costs(step=1.0, save=1.0, start=1.0, requeue=600.0, repair=1e9)
    down = [
        failure_simulation.simulate(SimulatedJob(10_000, 50, 1000.0, spares), costs, 50, seed=4)
        for spares in (0, 1, 1000)
    ]
    none, one, all_of_them = (found.seconds["down"].mean() / 600 for found in down)
    assert none == pytest.approx(down[0].failures.mean())
    assert one == pytest.approx(down[1].failures.mean() - 1, abs=0.2)
    assert all_of_them == 0


def test_the_first_command_and_those_of_requeued_jobs_have_to_be_launched():
    costs = Costs(step=1.0, save=1.0, start=0.0, launch=40.0, requeue=10.0)
    with_spares, without = (
        failure_simulation.simulate(SimulatedJob(10_000, 50, 1000.0, spares), costs, 20, seed=6) for spares in (1000, 0)
    )
    assert with_spares.seconds["start"] == pytest.approx(np.full(20, 40.0))
    assert without.seconds["start"] == pytest.approx(40.0 * (1 + without.failures))


def test_a_run_that_never_gets_to_its_checkpoint_is_given_up(monkeypatch):
    monkeypatch.setattr(failure_simulation, "_MOST_FAILURES", 50)
    costs = Costs(step=1.0, save=1.0, start=1000.0)
    found = failure_simulation.simulate(SimulatedJob(10_000, 5000, 100.0), costs, 2, seed=5)
    assert not found.finished.any()
    assert (found.failures == 50).all()
    assert (found.goodput == 0).all()


def test_the_same_seed_simulates_the_same_runs():
    job, costs = SimulatedJob(10_000, 100, 2000.0), Costs(step=1.0, save=5.0, start=30.0)
    first, same, other = (failure_simulation.simulate(job, costs, 5, seed).goodput for seed in (7, 7, 8))
    assert (first == same).all()
    assert (first != other).all()
