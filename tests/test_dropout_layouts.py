"""With dropout on, hidden and attention, every layout walks the same way: ranks, strategies, micro-batches, packing."""

import functools
import json
import os
from pathlib import Path

import pytest
import support
from support import ranks, strategy_steps
from test_exact_loss import ARCHITECTURES

STEPS = 5
SINGLE, DDP, FSDP = {"kind": "single"}, {"kind": "ddp"}, {"kind": "fsdp"}
HYBRID = {**FSDP, "shard": "hybrid", "replicas": 2}
DDP_TENSOR, FSDP_TENSOR = {**DDP, "tensor_parallel": 2}, {**FSDP, "tensor_parallel": 2}
LAYERS = {"activation_checkpointing": "layers"}
ZERO = [({"kind": "deepspeed", "zero": stage}, {}) for stage in (1, 2, 3)]

ANY = {
    1: [(SINGLE, {"max_tokens": None}), (SINGLE, {"max_tokens": 32}), (SINGLE, LAYERS)],
    2: [(DDP, {}), (FSDP, LAYERS)],
    3: [(DDP, {"max_tokens": 40})],
    4: [(HYBRID, {})],
}
TENSOR = {2: [(DDP_TENSOR, {})], 4: [(FSDP_TENSOR, LAYERS)]}
PACKED = {1: [(SINGLE, {"max_tokens": None}), (SINGLE, {"max_tokens": 64})], 2: [(FSDP, {})], 4: [(DDP_TENSOR, LAYERS)]}


def wet(type_, **keys):
    return {"kind": "config", "type": type_, **ARCHITECTURES.get(type_, support.TINY), **keys, "dropout": 0.1}


def mlm(type_):
    return support.mlm(type_, model=wet(type_), train__precision="fp64")


def tags():
    recipe = support.mlm("tags", model=wet("bert"), task={"kind": "token_classification"}, train__precision="fp64")
    recipe["data"]["train"] = {"kind": "jsonl", "path": "tags.jsonl"}
    return recipe


def labels(name="labels", **more):
    return support.classification(name, model=wet("bert", **more), train__precision="fp64")


def digits():
    cnn = {"kind": "small", "type": "cnn", "channels": [4], "hidden": [8], "dropout": 0.3}
    recipe = support.small("digits", model=cnn, task={"kind": "image_classification"}, train__precision="fp64")
    return {**recipe, "data": {"train": {"kind": "digits"}}, "evaluate": {}}


RECIPES = {
    **{type_: mlm(type_) for type_ in ARCHITECTURES},
    "labels": labels(),
    "tags": tags(),
    "lora": labels("lora", adapter={"kind": "lora", "r": 2, "dropout": 0.3}),
    "digits": digits(),
}
DEALT = {*ARCHITECTURES, "labels", "tags"}
PACKS = ("bert", "roberta", "modernbert")


def cases(name):
    """By number of ranks the layouts of a recipe."""
    found = {world: [*ANY[world], *(TENSOR.get(world, []) if name in DEALT else [])] for world in ANY}
    if name == "digits":  # no layers, and no lengths
        found = {w: [(s, {k: v for k, v in t.items() if k != "max_tokens"}) for s, t in found[w]] for w in found}
        found[1] = [(SINGLE, {"max_tokens": 4})]
    return found


def named(case):
    strategy, train = case
    return ",".join(f"{key}={value}" for key, value in {**strategy, **train}.items()).removeprefix("kind=")


FP64 = [(name, world, case) for name in RECIPES for world, listed in cases(name).items() for case in listed]
SHARED_ROWS = [(f"{name}-packed", world, case) for name in PACKS for world in PACKED for case in PACKED[world]]
FP32 = [(f"{name}-fp32", 2, case) for name in ("bert", "lora") for case in ZERO]
CASES = FP64 + SHARED_ROWS + FP32
FEW = {
    1: [(SINGLE, {"max_tokens": 32}), (SINGLE, {"max_tokens": 4}), (SINGLE, {"max_tokens": 64})],
    2: [(DDP, {})],
    4: [(FSDP_TENSOR, LAYERS), (DDP_TENSOR, LAYERS)],
}
QUICK = [one for one in CASES if one in FP32 or one[0].startswith("bert") or one[2] in FEW.get(one[1], [])]
"""All of BERT, and of every other model what differs in kind; `make soak` walks all."""
TOLERANCE = {"bert-fp32": 1e-5, "lora-fp32": 1e-5}
"""In fp64 sums in another order differ by some 1e-15, and the steps carry it on: 1e-10. DeepSpeed keeps parameters in
fp32."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The run folder of each recipe."""
    place, before = support.corpus(tmp_path_factory.mktemp("wet")), Path.cwd()
    texts = (place / "corpus.txt").read_text().split("\n")[:-1]
    rows = [{"words": t.split(), "labels": ["LONG" if len(w) > 5 else "O" for w in t.split()]} for t in texts]
    (place / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.chdir(place)
    yield {name: place / ranks.ready(support.write(made, f"{name}.yaml")) for name, made in RECIPES.items()}
    os.chdir(before)


def every(process, todo, steps):
    """The records of each (folder, how, case)."""
    return [_records(process, *one, steps) for one in todo]


def _records(process, folder, how, case, steps):
    strategy, train = case
    train = train | {"precision": "fp32"} if how == "fp32" else train
    task = {"samples": "packed"} if how == "packed" else {}
    return strategy_steps.take(strategy_steps.build(process, folder, strategy, train, task=task), steps)


def split(name):
    """The recipe of a case, and how it is walked: packed, in fp32, or as it is."""
    recipe, _, how = name.partition("-")
    return recipe, how


@pytest.fixture(scope="module")
def walked(folders):
    """Records of (name, ranks, layout), and of the single process: one start for each number of ranks. `recipe`: all
    layouts of that one, or a few of every one."""

    @functools.cache
    def find(steps, recipe=None):
        every_case = [case for case in CASES if split(case[0])[0] == recipe] if recipe else QUICK
        names = list(dict.fromkeys(name.removesuffix("-packed") for name, *_ in every_case))
        todo = {0: [(name, (SINGLE, {})) for name in names]}
        todo |= {world: [(name, case) for name, at, case in every_case if at == world] for world in ANY}
        told = {}
        for world, listed in todo.items():
            work = [(folders[split(name)[0]], split(name)[1], case) for name, case in listed]
            made = ranks.on_ranks(world or 1, every, work, steps)[0]
            told |= {(name, world, named(case)): r for (name, case), r in zip(listed, made, strict=True)}
        return told

    return find


def apart(told, steps, name, world, case):
    """The largest difference of a loss from those of the single process, whose samples and masks are the same."""
    alone, here = told[name.removesuffix("-packed"), 0, "single"], told[name, world, named(case)]
    assert [record["data"] for record in here] == [record["data"] for record in alone] and len(here) == steps
    return max(abs(a["loss"] - b["loss"]) for a, b in zip(alone, here, strict=True))


PARAMETERS = [pytest.param(*case, id=f"{case[0]}-{case[1]}-{named(case[2])}") for case in QUICK]


@pytest.mark.parametrize(("name", "world", "case"), PARAMETERS)
def test_every_layout_walks_the_same_way_with_dropout(walked, name, world, case):
    """In two minutes: that the draws of every architecture's heads, features, rows and recomputations are the same
    under every strategy, number of ranks and size of a micro-batch."""
    assert apart(walked(STEPS), STEPS, name, world, case) < TOLERANCE.get(name, 1e-10)


def test_every_model_is_walked():
    assert {split(name)[0] for name, *_ in QUICK} == set(RECIPES) and len(QUICK) > 35
    for world in (1, 2, 4):
        assert {split(name)[0] for name, at, _ in QUICK if at == world} >= (set(RECIPES) if world < 4 else DEALT)


def without(process, folder, changes):
    """The loss of the first step with other keys of the recipe, and with the same."""
    from dataclasses import replace

    from launcher import rank_training
    from launcher.config.recipe import Recipe
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.prepare import run_setup

    made = run_setup.load(folder)
    told = []
    for change in ({}, *changes):
        recipe = Recipe.model_validate(support.changed(made.recipe.model_dump(mode="json"), **change))
        run = rank_training.build(replace(made, recipe=recipe), process, StopMonitor(), None, workers=0)[0]
        told.append(strategy_steps.take(run, 1)[0]["loss"])
    return told


def test_dropout_is_on(folders):
    """The loss is another than without it, hidden or of the attention, and than under another seed."""
    changes = [
        {"model__dropout": 0.0},
        {"model__attention_probs_dropout_prob": 0.5, "model__dropout": None},
        {"seed": 4},
    ]
    there, *others = ranks.on_ranks(1, without, folders["bert"], changes)[0]
    assert all(abs(other - there) > 1e-6 for other in others)


@pytest.mark.soak
@pytest.mark.parametrize("recipe", RECIPES)
def test_sixty_steps_under_every_layout(walked, recipe):
    """In fp64 within 1e-8, and ZeRO within fp32's rounding."""
    mine = [case for case in CASES if split(case[0])[0] == recipe]
    gaps = [(apart(walked(60, recipe), 60, *case), case[0]) for case in mine]
    in_fp64 = [gap for gap, name in gaps if split(name)[1] != "fp32"]
    print(f"{recipe}: {len(in_fp64)} layouts in fp64, losses at most {max(in_fp64):.1e} apart")
    assert max(in_fp64) < 1e-8 and len(in_fp64) >= 7
    assert max(gap for gap, _ in gaps) < 1e-4
