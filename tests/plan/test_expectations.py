"""What a plan expects of a run: time and cost by earlier runs, goodput by the failures of the nodes."""

import io
import json
import os
import time
from pathlib import Path

import pytest
import support
from rich.console import Console

from launcher.config.cluster import Cluster
from launcher.config.recipe import Recipe
from launcher.plan import checkpoint_interval, earlier_runs, expectations
from launcher.plan.failure_simulation import Costs, SimulatedJob, simulate
from launcher.plan.plan import make
from launcher.storage import ledger
from launcher.storage.ledger import LedgerLine
from launcher.storage.run_dir import RunDir
from launcher.tools import tables

STEPS = 1000


@pytest.fixture
def planned(workspace):
    """A function that plans a run of `STEPS` steps on two nodes, of prepared data."""

    def build(cluster=None, prepared="cache/prepared/abc", **changes):
        changes = {"train__steps": STEPS, **changes}
        recipe = Recipe.model_validate(support.mlm(**changes))
        profile = cluster or Cluster(device="cpu", devices_per_node=2)
        plan = make(recipe, profile, file="recipe.yaml", prepared=Path(prepared) if prepared else None)
        return expectations.added(plan, recipe, profile)

    return build


def earlier(plan, name="earlier", steps=200, **seconds):
    """A run folder of the same plan, with a ledger of these seconds."""
    run = RunDir(Path("runs") / name)
    run.path.mkdir(parents=True)
    run.plan.write_text(plan.model_copy(update={"name": name, "folder": str(run.path)}).model_dump_json())
    for share in (0, 0.5, 1):
        spent = {purpose: value * (share if purpose != "start" else 1) for purpose, value in seconds.items()}
        line = LedgerLine(process="a", writer="rank", time=1e9 + 60 * share, step=int(steps * share), seconds=spent)
        ledger.append(run, line)
    return run


def test_a_run_takes_as_long_as_its_steps_did_before(planned):
    assert planned().expected_seconds is None
    earlier(planned(), start=30, compute=90, data=10, save=5, evaluate=15)
    plan = planned()
    assert plan.expected_seconds == pytest.approx(30 + STEPS * 0.5 * 1.2)
    assert plan.measured_in == "runs/earlier"
    out = io.StringIO()
    tables.print_plan(plan, Console(file=out, width=120))
    assert "time          about 10 min, as measured in runs/earlier" in out.getvalue()


@pytest.mark.parametrize(
    "changes",
    [{"train__global_batch": 24}, {"train__precision": "bf16"}, {"model__hidden_size": 32}, {"prepared": "cache/other"},
     {"strategy": "fsdp"}, {"cluster": Cluster(device="cpu", devices_per_node=4)}, {"prepared": None}],
)  # fmt: skip
def test_a_run_of_another_plan_says_nothing(planned, changes):
    earlier(planned(), start=30, compute=100)
    assert planned().expected_seconds is not None
    assert planned(**changes).expected_seconds is None


def test_few_steps_and_damaged_runs_say_nothing(planned):
    earlier(planned(), "short", steps=19, start=30, compute=100)
    damaged = earlier(planned(), "damaged", start=30, compute=100)
    damaged.ledger.write_text('{"process": 1, "writer": "rank", "time": 1, "seconds": {}}\n')
    earlier(planned(), "odd", start=30, compute=100).plan.write_text("[]")
    assert planned().expected_seconds is None


def test_the_newest_run_counts_and_the_search_ends(planned, monkeypatch):
    monkeypatch.setattr(earlier_runs, "_LOOKED_AT", 2)
    for number, name in enumerate(("first", "second", "third")):
        run = earlier(planned(train__steps=STEPS), name, start=1, compute=100 * (number + 1))
        stamp = time.time() + number
        os.utime(run.plan, (stamp, stamp))
    assert planned().measured_in == "runs/third"


def test_the_cost_is_of_all_nodes_with_their_failures(planned):
    keys = {"device": "cpu", "devices_per_node": 2, "price_per_hour": 12}
    unknown = planned(Cluster(**keys))
    assert (unknown.price_per_hour, unknown.cost, unknown.goodput) == (12, None, None)
    earlier(unknown, start=0, compute=720)
    plan = planned(Cluster(**keys))
    assert plan.cost == pytest.approx(12.0)  # an hour
    failing = planned(Cluster(**keys, hours_between_failures=10), checkpoint={"every": "10m"})
    assert failing.cost == pytest.approx(12 / failing.goodput) and 0.9 < failing.goodput < 0.99
    out = io.StringIO()
    tables.print_plan(failing, Console(file=out, width=120))
    assert f"cost          about {failing.cost:.2f}: 1 node at 12.00 an hour, failures included" in out.getvalue()


def test_goodput_needs_the_seconds_of_a_step_if_the_interval_is_in_steps(planned):
    failing = Cluster(device="cpu", devices_per_node=2, hours_between_failures=100)
    assert planned(failing, checkpoint={"every": 10}).goodput is None
    assert planned(failing, checkpoint={"every": "auto"}).goodput == pytest.approx(0.99, abs=0.01)
    assert planned(failing, checkpoint={"every": "1h"}).goodput < planned(failing, checkpoint={"every": "10m"}).goodput


@pytest.mark.parametrize(("every", "between"), [(600, 20_000), (3600, 20_000), (1200, 100_000), (300, 5_000)])
def test_the_goodput_of_the_formula_is_that_of_simulated_runs(every, between):
    """Daly's formula and the simulation, which knows nothing of it, agree within half a percent."""
    costs = Costs(step=1.0, save=10.0, start=0.0, detect=120.0)
    runs = simulate(SimulatedJob(steps=2_000_000, every=every, between_failures=between), costs, runs=20, seed=0)
    expected = checkpoint_interval.goodput(every, costs.save, costs.detect, between)
    assert runs.mean.goodput == pytest.approx(expected, abs=0.005)


def test_a_job_that_never_gets_to_a_checkpoint_has_no_goodput():
    assert checkpoint_interval.goodput(1e6, 1, 1, 10) == 0
    assert checkpoint_interval.goodput(1, 0, 0, 1e12) == pytest.approx(1)


def test_a_plan_is_read_without_what_a_later_launcher_adds(planned):
    old = json.loads(planned().model_dump_json())
    for key in ("expected_seconds", "measured_in", "goodput", "price_per_hour", "cost", "warnings", "parts", "trained"):
        del old[key]
    assert type(planned()).model_validate_json(json.dumps(old)).warnings == []
