"""`launcher simulate`: costs with their sources, goodput with its spread, and mistakes in options."""

import json
from pathlib import Path

import pytest
import support
from typer.testing import CliRunner

from launcher import cli
from launcher.config import load
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.plan import failure_simulation
from launcher.storage import ledger
from launcher.storage.ledger import LedgerLine
from launcher.storage.run_dir import RunDir
from launcher.tools import simulate

ARGUMENTS = ["simulate", "recipe.yaml", "--nodes", "2000", "--mtbf", "5000h", "train.steps=100000"]


@pytest.fixture(autouse=True)
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    support.write(support.small(checkpoint={"every": "10m"}))


def called(*arguments):
    done = CliRunner().invoke(cli.app, [*ARGUMENTS, *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_goodput_interval_and_the_source_of_every_cost_are_printed():
    shown = called("--assume", "step=800ms")
    assert "a node fails every 208 days, so one of them every 2.5 h" in shown
    assert "0.800 s" in shown
    assert "given" in shown
    assert "a checkpoint every 750 steps (10 min); the optimum is every " in shown
    assert "in nine of ten of 200 simulated runs, seed 0" in shown
    assert "lost" in shown


def test_costs_of_earlier_runs_are_measured():
    folder = RunDir(Path("runs/tiny"))
    folder.path.mkdir(parents=True)
    load.dump(load.recipe("recipe.yaml").value, folder.recipe)  # of 6 steps, so that it would refuse to go on
    folder.metrics.touch()
    for step, seconds in ((0, 0.0), (100, 40.0)):
        known = {"start": 7.0, "compute": seconds}
        ledger.append(folder, LedgerLine(process="a", writer="rank", time=50 + seconds, step=step, seconds=known))
    found = json.loads(called("--json"))
    assert found["costs"]["step"] == {"seconds": 0.4, "source": "measured: runs/tiny"}
    assert found["costs"]["start"]["seconds"] == 7
    assert found["costs"]["requeue"]["source"] == "assumed"
    assert found["job"]["every"] == 1500
    assert found["goodput"]["p5"] <= found["goodput"]["mean"] <= found["goodput"]["p95"]


def test_options_change_the_job_and_the_seed_the_failures():
    found = [json.loads(called("--json", *more)) for more in ([], ["--seed", "1"], ["--spares", "9"])]
    assert found[0]["goodput"] != found[1]["goodput"]
    assert found[2]["time"]["parts"]["down"] < found[0]["time"]["parts"]["down"]
    best = json.loads(called("--json", "--checkpoint-every", str(found[0]["optimal"]["every"])))
    assert best["goodput"]["mean"] == pytest.approx(found[0]["optimal"]["goodput"])


def test_a_run_that_never_ends_is_named(monkeypatch):
    monkeypatch.setattr(failure_simulation, "_MOST_FAILURES", 100)
    shown = called("--checkpoint-every", "100000", "--assume", "step=1s", "--assume", "start=9d", "--spares", "1")
    assert "100% of the runs never end: they fail before a checkpoint is saved" in shown


def test_all_mistakes_of_options_are_reported_at_once():
    with pytest.raises(UserError) as caught:
        simulate.question(Cluster(), None, "5q", "5x", 0, 0, ["x=3s", "step=0", "save=1"])
    assert [str(problem).partition(" ")[0] for problem in caught.value.problems] == [
        "--mtbf:", "--checkpoint-every:", "--assume", "--assume", "--assume",
    ]  # fmt: skip


def test_the_time_between_failures_comes_from_the_profile_or_is_asked_for():
    with pytest.raises(UserError, match=r"--mtbf: missing, and the profile local has no hours_between_failures"):
        simulate.question(Cluster(), None, None, None, 0, 0, [])
    asked = simulate.question(Cluster(hours_between_failures=100), None, None, "90s", 0, 0, ["save=0"])
    assert (asked.nodes, asked.of_node, asked.every, asked.costs) == (1, 360_000, 90.0, {"save": 0.0})


@pytest.mark.parametrize(
    "text, seconds", [("250ms", 0.25), ("90s", 90), ("1.5m", 90), ("5000h", 18_000_000), ("7d", 604_800)]
)
def test_durations(text, seconds):
    assert simulate.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "0s", "-5h", "5 h", "1e3s", "5000H", "9" * 20 + "h"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="is no duration"):
        simulate.parse_duration(text)
