"""What every strategy promises, over every kind found and every layout that it proposes."""

import functools
import os
from pathlib import Path

import pytest
import support
from pydantic import ValidationError
from ruamel.yaml import YAML
from support import ranks, strategy_steps

from launcher.config import kinds
from launcher.config.recipe import Recipe
from launcher.contract import split
from launcher.plan import layout

KINDS = kinds.available("strategies")
SINGLE = {"kind": "single"}
STEPS = 5


def proposed(world):
    """The layouts of every kind for so many ranks, as they stand in a recipe."""
    found = [config for kind in KINDS for config in kinds.module("strategies", kind).Strategy.layouts(world)]
    return [(config.model_dump(mode="json", exclude_unset=True) | {"kind": config.kind}, {}) for config in found]


LAYERS, EVERY_2 = {"activation_checkpointing": "layers"}, {"activation_checkpointing": "every 2"}
FSDP, DDP, ZERO = {"kind": "fsdp"}, {"kind": "ddp"}, {"kind": "deepspeed"}
OVERLAPPED = {"zero_optimization": {"overlap_comm": True}}  # as on GPUs
OTHERS = {
    2: [
        (DDP, LAYERS),
        ({**DDP, "static_graph": True}, {}),
        ({**DDP, "bucket_view": False, "bucket_mb": 0.01}, {}),
        (FSDP, EVERY_2),
        ({**FSDP, "offload": True}, {}),
        ({**ZERO, "zero": 3, "offload": "all", "bucket_mb": 0.01}, {}),
    ],
    4: [],
}
OF_BERT_ALONE = {
    1: [(SINGLE, {}), (SINGLE, EVERY_2), (DDP, {}), (FSDP, {}), ({**ZERO, "zero": 1}, {}), ({**ZERO, "zero": 3}, {})],
    2: [
        ({**DDP, "static_graph": True}, LAYERS),
        ({**FSDP, "prefetch": 1}, {}),
        ({**FSDP, "tensor_parallel": 2}, LAYERS),
        ({**ZERO, "zero": 3}, LAYERS),
        ({**ZERO, "zero": 2, "offload": "optimizer"}, {}),
        ({**ZERO, "zero": 3, "offload": "optimizer"}, {}),
        ({**ZERO, "zero": 1, "extra": OVERLAPPED}, {}),
        ({**ZERO, "zero": 2, "extra": OVERLAPPED}, {}),
    ],
    4: [
        ({**FSDP, "shard": "hybrid", "replicas": 2, "tensor_parallel": 2}, {}),
    ],
}


def cases(recipe, world):
    """What is proposed for one rank is `single`; DeepSpeed on four is as on two, and tried with one model."""
    found = [] if world == 1 else [*proposed(world), *OTHERS[world]]
    if recipe == "bert":
        return found + OF_BERT_ALONE[world]
    return [case for case in found if world == 2 or case[0]["kind"] != "deepspeed"]


RECIPES = {
    "bert": support.mlm("bert", train__global_batch=13, seed=4),
    "modernbert": support.mlm(
        "modernbert",
        train__global_batch=13,
        seed=4,
        model={"kind": "config", "type": "modernbert", **support.TINY, "dropout": 0.1},
    ),
    "labels": support.classification("labels", train__global_batch=13, seed=4, model__dropout=0.1),
}


CASES = {(recipe, world): cases(recipe, world) for recipe in RECIPES for world in (1, 2, 4)}


def named(case):
    strategy, train = case
    return ",".join(f"{key}={value}" for key, value in {**strategy, **train}.items()).removeprefix("kind=")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The run folders of the recipes."""
    place, before = support.corpus(tmp_path_factory.mktemp("kinds")), Path.cwd()
    os.chdir(place)
    folders = {name: place / ranks.ready(support.write(recipe, f"{name}.yaml")) for name, recipe in RECIPES.items()}
    yield folders
    os.chdir(before)


@pytest.fixture(scope="module")
def walked(prepared):
    """What all ranks tell of a walk: all walks of one recipe and one number of ranks are made at once, when the first
    is asked for."""

    @functools.cache
    def every(recipe, world):
        return ranks.on_ranks(world, strategy_steps.walks, prepared[recipe], CASES[recipe, world], STEPS)

    @functools.cache
    def alone(recipe):
        return ranks.on_ranks(1, strategy_steps.walks, prepared[recipe], [(SINGLE, {})], STEPS)[0][0]

    def find(recipe, world, case):
        at = CASES[recipe, world].index(case)
        return alone(recipe), [rank[at] for rank in every(recipe, world)]

    return find


CONTRACT = [
    pytest.param(recipe, world, case, id=f"{recipe}-{world}-{named(case)}")
    for recipe, world in CASES
    for case in CASES[recipe, world]
]


@pytest.mark.parametrize(("recipe", "world", "case"), CONTRACT)
def test_every_layout_walks_the_way_of_the_single_process(walked, recipe, world, case):
    """In fp32, whose unit roundoff is 6e-8: sums of another order differ by some of it, and a step takes the
    differences on to the next."""
    alone, every = walked(recipe, world, case)
    assert len(every) == world
    for told in every:
        for step, (there, here) in enumerate(zip(alone["records"], told["records"], strict=True)):
            near = pytest.approx(there["loss"], rel=1e-5 if step == 0 else 1e-4)
            assert here["loss"] == near, step
            assert here["grad_norm"] == pytest.approx(there["grad_norm"], rel=1e-5 if step == 0 else 1e-4), step
            for same in ("data", "step", "samples", "tokens", "lr", "skipped"):
                assert here[same] == there[same]
    losses = [record["loss"] for record in alone["records"]]
    assert len(set(losses)) == STEPS + 1


@pytest.mark.parametrize(("recipe", "world", "case"), CONTRACT)
def test_the_state_of_every_layout_has_the_names_shapes_and_values_of_the_single_process(walked, recipe, world, case):
    alone, every = walked(recipe, world, case)
    for told in every:
        assert told["shapes"] == alone["shapes"]
    there, here = alone["state"], every[0]["state"]
    assert {name: array.shape for name, array in here.items()} == alone["shapes"]
    assert {name: array.dtype for name, array in here.items()} == {name: array.dtype for name, array in there.items()}
    for name in there:
        if name.endswith(".step"):
            assert here[name] == there[name] == STEPS
    assert strategy_steps.apart(there, here, ".exp_avg") < 1e-5
    assert strategy_steps.apart(there, here, "model.") < 1e-6


@pytest.mark.parametrize(("recipe", "world", "case"), CONTRACT)
def test_a_look_before_the_first_step_finds_the_weights_of_the_single_process_and_no_moments(
    walked, recipe, world, case
):
    """That it changes nothing shows in the steps after it."""
    alone, every = walked(recipe, world, case)
    assert every[0]["first"].keys() == alone["first"].keys()
    for name, array in every[0]["first"].items():
        assert array.tobytes() == alone["first"][name].tobytes(), name
        assert name.startswith("model.") or not array.any()


@pytest.mark.parametrize(("recipe", "world", "case"), CONTRACT)
def test_a_step_leaves_no_gradient(walked, recipe, world, case):
    assert not any(told["left"] for told in walked(recipe, world, case)[1])


@pytest.mark.parametrize(("recipe", "world", "case"), CONTRACT)
def test_a_state_given_back_leaves_every_byte_as_it_is(walked, recipe, world, case):
    """The step after it is looked at above."""
    assert all(told["unchanged"] for told in walked(recipe, world, case)[1])


def test_the_shares_that_are_compared_are_unequal(prepared):
    """Lengths within a micro-batch, and the micro-batches that ranks would make of their shares."""
    for name in RECIPES:
        lengths = ranks.on_ranks(1, step_lengths, prepared[name])[0]
        assert all(len(set(step.tolist())) > 1 for step in lengths), lengths
        assert sum(len(set(step.tolist())) for step in lengths) > 3 * STEPS
        for world in (2, 4):
            counts = [
                [len(split.micro_batches(share, step, 96)) for share in split._deal(step, world)] for step in lengths
            ]
            assert any(len(set(count)) > 1 for count in counts), (name, world, counts)
            assert max(max(count) for count in counts) > 1


def step_lengths(process, folder):
    batches = strategy_steps.build(process, folder, SINGLE).batches.dataset
    return [batches.samples.lengths(batches.order.step(step, batches.global_batch)[1]) for step in range(STEPS)]


def test_compiled_layers_walk_the_same_way(prepared, walked):
    """In fp32; compiled kernels round in another order, and fuse a product and a sum into one rounding."""
    train = {"compile": True, "activation_checkpointing": "every 2"}
    alone = walked("bert", 2, CASES["bert", 2][0])[0]["records"]
    for rank in ranks.on_ranks(2, strategy_steps.walks, prepared["bert"], [(FSDP, train)], 1):
        for there, here in zip(alone, rank[0]["records"], strict=False):
            assert here["loss"] == pytest.approx(there["loss"], rel=1e-5)
            assert here["grad_norm"] == pytest.approx(there["grad_norm"], rel=1e-5)
        assert rank[0]["unchanged"]


@pytest.mark.parametrize("case", CASES["bert", 2] + CASES["bert", 4], ids=named)
def test_a_layout_as_it_is_written_is_read_as_what_it_is(case):
    config = kinds.module("strategies", case[0]["kind"]).Config.model_validate(case[0])
    read = Recipe.model_validate(support.mlm(strategy=YAML(typ="safe").load(layout.written(config)))).strategy
    assert read == config and type(read) is type(config)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_keys_are_refused(kind):
    with pytest.raises(ValidationError, match="unknown key"):
        kinds.module("strategies", kind).Config.model_validate({"kind": kind, "shards": 2})


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_layout_that_is_proposed_is_tried(world):
    tried = [strategy for strategy, train in CASES["bert", world] if not train]
    assert all(strategy in tried for strategy, _ in proposed(world))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_kind_proposes_it_takes(kind):
    strategy = kinds.module("strategies", kind).Strategy
    proposals = [(world, config) for world in range(1, 9) for config in strategy.layouts(world)]
    assert proposals
    assert {strategy(config).check(world) for world, config in proposals} == {None}


def test_single_is_one_process():
    single = kinds.module("strategies", "single")
    assert single.Strategy(single.Config()).check(1) is None
    assert single.Strategy(single.Config()).check(2) == "single is one process, not 2 ranks (take ddp, or --ranks 1)"
