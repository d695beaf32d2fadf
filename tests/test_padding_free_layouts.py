"""On two real ranks, with dropout: rows without padding walk the way of padded ones, and either resumes the other.

In a minute: nothing else computes such rows under DDP and FSDP, with recomputed layers and several micro-batches.
"""

import os
from pathlib import Path

import pytest
import support
from support import ranks, strategy_steps
from test_dropout_layouts import labels, mlm

from launcher.config.recipe import Recipe, trajectory

DDP, FSDP = {"kind": "ddp"}, {"kind": "fsdp"}
FREE, PADDED, LAYERS = {"padding_free": True}, {"padding_free": False}, {"activation_checkpointing": "layers"}
STEPS = 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place, before = support.corpus(tmp_path_factory.mktemp("free")), Path.cwd()
    os.chdir(place)
    recipes = {"labels": labels(), "mlm": mlm("modernbert")}
    yield {name: place / ranks.ready(support.write(recipe, f"{name}.yaml")) for name, recipe in recipes.items()}
    os.chdir(before)


def walks(process, folder):
    """The records of every layout, and of a run whose second half is padded, and of one whose first half is."""
    cases = {
        "padded": (DDP, PADDED),
        "auto": (DDP, {"padding_free": "auto"}),
        "one row": (DDP, {**FREE, "max_tokens": None}),
        "narrow": (DDP, {**FREE, "max_tokens": 40}),
        "fsdp": (FSDP, {**FREE, **LAYERS}),
    }
    told = {name: strategy_steps.take(strategy_steps.build(process, folder, *cases[name]), STEPS) for name in cases}
    told["resumed padded"] = resumed(process, folder, FREE, PADDED)
    return told | {"resumed": resumed(process, folder, PADDED, FREE)}


def resumed(process, folder, first, second):
    before, after = (strategy_steps.build(process, folder, DDP, keys) for keys in (first, second))
    records = strategy_steps.take(before, STEPS // 2)
    state = after.engine.state_dict()
    for name, tensor in before.engine.state_dict().items():
        state[name].copy_(tensor)
    after.engine.load_state_dict(state)
    after.progress.step = STEPS // 2
    return records + strategy_steps.take(after, STEPS - STEPS // 2)


@pytest.mark.parametrize("name", ["labels", "mlm"])
def test_every_layout_has_the_digests_and_losses_of_padded_rows(folders, name):
    told = ranks.on_ranks(2, walks, folders[name])[0]
    padded = told.pop("padded")
    assert min(record["fill"] for record in padded) < 1
    for how, records in told.items():
        assert [r["data"] for r in records] == [r["data"] for r in padded], how
        assert [r["loss"] for r in records] == pytest.approx([r["loss"] for r in padded], rel=1e-10), how
        assert how.startswith("resumed") or all(record["fill"] == 1.0 for record in records), how


def test_a_resume_may_change_it():
    one, other = (Recipe.model_validate(support.mlm(train__padding_free=free)) for free in (True, False))
    assert trajectory(one) == trajectory(other)
