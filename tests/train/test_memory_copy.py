"""Copies of the state in memory: of every strategy, on several nodes, torn, damaged, and in a folder of others."""

import os
import shutil
from pathlib import Path

import pytest
import support
from support import memory_steps, ranks

from launcher.config import kinds
from launcher.config.recipe import Recipe
from launcher.train import memory_restore

DDP, FSDP, ZERO = {"kind": "ddp"}, {"kind": "fsdp"}, {"kind": "deepspeed"}
OTHERS = {
    2: [{**FSDP, "offload": True}, {**ZERO, "zero": 3, "offload": "all", "bucket_mb": 0.01}],
    4: [{**FSDP, "shard": "hybrid", "replicas": 2, "tensor_parallel": 2}],
}


def cases(world):
    """The layouts that every kind proposes, and others. DeepSpeed on four is as on two."""
    proposed = [
        config.model_dump(mode="json", exclude_unset=True) | {"kind": config.kind}
        for kind in kinds.available("strategies")
        for config in kinds.module("strategies", kind).Strategy.layouts(world)
    ]
    return [case for case in proposed if world == 2 or case["kind"] == "fsdp"] + OTHERS[world]


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    folder = Path("/dev/shm", f"test-{os.getpid()}-steps")
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    place, before = support.corpus(tmp_path_factory.mktemp("copies")), Path.cwd()
    os.chdir(place)
    recipe = support.mlm("bert", train__global_batch=13, seed=4, optimizer__clip=1.0)
    yield place / ranks.ready(support.write(recipe, "bert.yaml"))
    os.chdir(before)


SHORT = {2: [DDP, FSDP, {**ZERO, "zero": 1}, {**ZERO, "zero": 3, "offload": "all"}], 4: OTHERS[4]}
ROUNDS = [
    *(pytest.param(world, few, id=f"{world}-few") for world, few in SHORT.items()),
    *(pytest.param(world, cases(world), id=f"{world}-all", marks=pytest.mark.soak) for world in SHORT),
]


@pytest.mark.parametrize("world, layouts", ROUNDS)
def test_every_strategy_goes_on_to_the_last_bit_from_its_copy_also_where_a_node_is_lost(
    prepared, memory, world, layouts
):
    """It alone proves that the state of every engine survives a copy, on both of two nodes and from one of them."""
    found = ranks.on_ranks(world, memory_steps.round_trips, prepared, memory, layouts, 2)
    for case, told in zip(layouts, zip(*found, strict=True), strict=True):
        for rank in told:
            assert rank == {"same": [True, True], "steps": [3, 3]}, case


FALLS_BACK = {
    "nothing": 3, "a bit of one": 2, "a bit of each": None, "no mark": 2, "half a mark": 2, "no file": 2,
    "another strategy": None, "other data": None, "the run made anew": None,
    "step 3 left out": 2, "a lost checkpoint to keep": 2,
}  # fmt: skip


def test_a_copy_that_is_torn_damaged_or_of_another_layout_gives_way_to_the_one_before_it(prepared, memory):
    for damage, step in FALLS_BACK.items():
        assert ranks.on_ranks(2, memory_steps.damages, prepared, memory, damage) == [step, step], damage


def test_a_copy_that_fails_on_one_node_is_the_last_and_the_one_before_it_stays(prepared, memory):
    found = ranks.on_ranks(2, memory_steps.failures, prepared, memory)
    assert found == [{"due": [True, True, True, False], "found": 2}] * 2


def test_training_goes_on_without_copies_where_they_do_not_fit(prepared, memory):
    with support.tmpfs(memory / "small", "64k"):
        assert ranks.on_ranks(2, memory_steps.too_small, prepared, memory / "small") == [(True, False)] * 2


@pytest.mark.parametrize("saving, disk, skips", [(4, 2, True), (4, 4, False), (6, 2, False), (0, 2, False)])
def test_a_copy_is_not_used_if_the_best_checkpoint_was_lost_while_it_was_being_written(saving, disk, skips):
    recipe = Recipe.model_validate(support.mlm(evaluate={"every": 2, "save_best": True}))
    state = {"saving": saving, "history": [[2, 1.5], [4, 1.0], [6, 1.2]]}
    assert memory_restore._skips_kept(state, recipe, disk) == skips
    plain = Recipe.model_validate(support.mlm(evaluate={"every": 2}))
    assert not memory_restore._skips_kept(state, plain, disk)
