"""A mixture through the real entry points: shares, and digests that neither ranks, a resume nor packing change."""

from collections import Counter

import numpy as np
import pytest
import support

from launcher.config import load
from launcher.contract.order import Mixture
from launcher.plan import sample_order
from launcher.prepare import prepared_data, run_setup

STEPS, BATCH = 24, 10


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe that mixes lines of text with JSON rows, three to one."""
    home = tmp_path_factory.mktemp("mixture")
    support.corpus(home)
    sources = {
        "lines": {"kind": "text", "path": str(home / "corpus.txt"), "document": "line"},
        "rows": {"kind": "jsonl", "path": str(home / "corpus.jsonl"), "limit": 30},
    }
    train = {"kind": "mixture", "sources": sources, "weights": {"lines": 3, "rows": 1}}
    given = support.mlm(
        "mixed", data__train=train, train__steps=STEPS, train__global_batch=BATCH, train__precision="fp64"
    )
    return support.write(given, home / "recipe.yaml")


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory):
    """The run on one rank, and the folder that it is in."""
    home = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        support.launcher("run", recipe, "--ranks", 1)
        return support.steps("runs/mixed")


def digests(steps):
    return {step: record["data"] for step, record in steps.items()}


@pytest.mark.parametrize("ranks", [2, 4])
def test_digests_and_losses_are_those_of_one_rank(recipe, alone, tmp_path, monkeypatch, ranks):
    monkeypatch.chdir(tmp_path)
    support.launcher("run", recipe, "--ranks", ranks)
    found = support.steps("runs/mixed")
    assert digests(found) == digests(alone)
    assert [r["loss"] for r in found.values()] == pytest.approx([r["loss"] for r in alone.values()], rel=1e-8)


def test_a_killed_run_goes_on_in_the_same_mixture_packed_and_on_another_number_of_ranks(
    recipe, alone, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    process = support.start("run", recipe, "--ranks", 2, "checkpoint.every=4", "checkpoint.mode=sync")
    support.wait_for_step("runs/mixed", 6, process)
    support.kill_group(process)
    support.launcher("run", recipe, "--ranks", 1, "task.samples=packed", "--resume")
    found = support.steps("runs/mixed")
    assert digests(found) == digests(alone)
    assert found[STEPS]["loss"] == pytest.approx(alone[STEPS]["loss"], rel=1e-8)


def test_the_plan_tells_shares_and_epochs(recipe, alone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = support.launcher("plan", recipe).stdout
    assert "lines 75.0%" in out
    assert "rows 25.0% (" in out


def test_other_weights_need_no_other_data(recipe):
    names = {
        prepared_data.identity(load.recipe(recipe, over).value)
        for over in ((), ("data.train.weights={lines: 1, rows: 9}",))
    }
    assert len(names) == 1


def test_sources_go_by_their_names_whatever_their_order_in_the_recipe(recipe):
    loaded = load.recipe(recipe)
    known, config = run_setup.prepare(loaded)[1], loaded.value
    turned = dict(reversed(config.data.train.sources.items()))
    data = config.data.model_copy(update={"train": config.data.train.model_copy(update={"sources": turned})})
    assert sample_order.order(config, known) == sample_order.order(config.model_copy(update={"data": data}), known)


def test_every_thousand_samples_hold_the_shares(recipe):
    known = run_setup.prepare(load.recipe(recipe))[1]
    order = Mixture(tuple(known.sources.values()), (3.0, 1.0), 3)
    for step in range(20):
        ids = order.step(step, 1000)[1]
        share = Counter(np.where(ids < known.sources["lines"], "lines", "rows").tolist())
        assert abs(share["lines"] / 1000 - 0.75) < 0.01
