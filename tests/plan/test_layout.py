"""Which layouts can run a recipe, and which would fit where one does not."""

import re

import pytest
import support
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.plan import layout, plan
from launcher.plan.facts import Facts
from launcher.plan.model_spec import Architecture

GIB = 2**30
BASE = Architecture(
    name="BertForMaskedLM", parameters=109_500_000, trained=109_500_000, buffers=512, in_layers=85_000_000,
    largest_layer=7_090_000, hidden=768, layers=12, heads=12, largest_parameter=23_440_896,
)  # fmt: skip
FACTS = Facts(
    digest="", vocab_size=30_522, pad_token_id=0, mask_token_id=0, special_ids=[], labels=["0", "1"], longest=512,
    samples={}, tokens={}, baseline={},
)  # fmt: skip


def recipe(**changes):
    data = {"data__max_length": 512, "train__global_batch": 256, "train__max_tokens": 8192, "strategy": {"kind": "ddp"}}
    return Recipe.model_validate(support.mlm(**{**data, **changes}))


def size(of, ranks):
    return sum(layout.needed(of, BASE, FACTS, ranks, "cuda").values())


def taken(told, of, ranks):
    """The recipe and the ranks that an advice proposes."""
    keys = re.fullmatch(
        r"nearest that fits: '?(strategy=\{.*?\})'?((?: \S+=\S+)*?)(?: on (\d+) devices)?, about [\d.]+ GiB", told
    )
    assert keys, told
    found = of.model_dump(mode="json")
    found["strategy"] = YAML(typ="safe").load(keys[1].removeprefix("strategy="))
    for override in keys[2].split():
        key, value = override.removeprefix("train.").split("=")
        found["train"][key] = int(value) if value.isdigit() else value
    return Recipe.model_validate(found), int(keys[3] or ranks)


@settings(deadline=None)
@given(st.floats(0.01, 16), st.integers(1, 8), st.sampled_from(["fp32", "bf16", "fp16", "fp64"]))
def test_what_is_said_to_fit_fits_and_can_run(there, ranks, precision):
    of = recipe(train__precision=precision)
    told = layout.nearest(of, BASE, FACTS, ranks, round(there * GIB), "cuda")
    assume(not told.startswith("nothing"))
    proposed, count = taken(told, of, ranks)
    assert size(proposed, count) <= there * GIB
    assert layout.misfits(proposed, count) == layout.refusals(proposed, BASE) == []
    assert count % ranks == 0
    assert proposed.train.global_batch == of.train.global_batch


@settings(deadline=None)
@given(st.floats(0.01, 16), st.integers(1, 8))
def test_nothing_that_shards_less_would_fit(there, ranks):
    """Of the layouts of these ranks it is the one that needs the most of what is there."""
    of, limit = recipe(), round(there * GIB)
    told = layout.nearest(of, BASE, FACTS, ranks, limit, "cuda")
    assume(not told.startswith("nothing"))
    proposed, count = taken(told, of, ranks)
    assume(count == ranks and proposed.train == of.train)
    sizes = [size(other, ranks) for other in layout.layouts(of, BASE, ranks)]
    assert size(proposed, count) == max(needed for needed in sizes if needed <= limit)


CONTEXT = 2 * GIB
"""Bytes of a CUDA context with NCCL, which no layout changes."""


def test_first_another_layout_then_a_smaller_micro_batch_then_more_ranks():
    of = recipe(train__max_tokens=2048)
    whole = size(of, 2)
    limits = [round(CONTEXT + (whole - CONTEXT) * share) for share in (0.98, 0.5, 0.25)]
    told = [layout.nearest(of, BASE, FACTS, 2, limit, "cuda") for limit in limits]
    first, second, third = (taken(one, of, 2) for one in told)
    assert (first[0].train, first[1]) == (of.train, 2)
    assert (second[0].train.max_tokens, second[0].train.activation_checkpointing, second[1]) == (512, "layers", 2)
    assert third[1] > 2
    assert all(proposed.strategy.kind in ("fsdp", "deepspeed") for proposed, _ in (first, second, third))


def test_ranks_are_no_more_than_samples_and_sixty_four():
    of = recipe(train__global_batch=4)
    nothing = "nothing known fits on up to 64 ranks: a smaller model, or devices with more memory"
    assert layout.nearest(of, BASE, FACTS, 2, 2**20, "cuda") == nothing
    assert layout.nearest(recipe(), BASE, FACTS, 2, 2**20, "cuda") == nothing
    tight = CONTEXT + round(0.9 * GIB)
    many, few = (
        layout.nearest(recipe(), BASE, FACTS, 1, tight, "cuda"),
        layout.nearest(of, BASE, FACTS, 1, tight, "cuda"),
    )
    assert taken(many, recipe(), 1)[1] <= 64
    assert few == nothing or taken(few, of, 1)[1] <= 4


@pytest.mark.parametrize(
    ("strategy", "ranks", "told"),
    [
        ({"kind": "single"}, 2, "single is one process, not 2 ranks (take ddp, or --ranks 1)"),
        ({"kind": "fsdp", "shard": "hybrid", "replicas": 2}, 3,
         "3 ranks are not 2 replicas x shards (a multiple of 2 is)"),
        ({"kind": "fsdp", "shard": "hybrid", "replicas": 2, "tensor_parallel": 2}, 6,
         "6 ranks are not 2 replicas x shards x tensor_parallel 2 (a multiple of 4 is)"),
        ({"kind": "fsdp", "tensor_parallel": 4}, 2, "2 ranks are not shards x tensor_parallel 4 (a multiple of 4 is)"),
        ({"kind": "ddp", "tensor_parallel": 2}, 3, "3 ranks are not shards x tensor_parallel 2 (a multiple of 2 is)"),
        ({"kind": "deepspeed", "zero": 2, "offload": "all"}, 2, "offload: all needs zero: 3, not 2"),
        ({"kind": "fsdp", "shard": "hybrid", "replicas": 2}, 4, None),
        ({"kind": "fsdp", "tensor_parallel": 2}, 6, None),
    ],
)  # fmt: skip
def test_ranks_fill_the_mesh(strategy, ranks, told):
    assert layout.misfits(recipe(strategy=strategy), ranks) == ([("strategy", told)] if told else [])


@pytest.mark.parametrize(
    ("strategy", "train", "told"),
    [
        ({"kind": "fsdp", "tensor_parallel": 5}, {},
         [("strategy.tensor_parallel", "5 does not divide the 12 heads (these do: 1, 2, 3, 4, 6, 12)")]),
        ({"kind": "ddp", "tensor_parallel": 8}, {},
         [("strategy.tensor_parallel", "8 does not divide the 12 heads (these do: 1, 2, 3, 4, 6, 12)")]),
        ({"kind": "fsdp", "tensor_parallel": 2, "offload": True}, {},
         [("strategy.offload", "not together with tensor_parallel (leave one of them out)")]),
        ({"kind": "fsdp", "tensor_parallel": 2}, {"train__compile": True},
         [("train.compile", "not together with strategy.tensor_parallel (leave one of them out)")]),
        ({"kind": "ddp", "tensor_parallel": 2, "static_graph": True}, {},
         [("strategy", "compress and static_graph are DDP's own: without tensor_parallel")]),
        ({"kind": "fsdp", "reduce": "bf16"}, {"train__precision": "fp64"},
         [("strategy", "gather and reduce in bf16 would round the fp64 that train.precision asks for")]),
        ({"kind": "deepspeed", "zero": 3}, {"train__compile": True},
         [("train.compile", "zero: 3 gathers parameters in the middle of a layer (take fsdp, or zero: 2)")]),
        ({"kind": "deepspeed"}, {"train__precision": "fp64"},
         [("strategy", "DeepSpeed keeps parameters in fp32: train.precision fp64 needs ddp or fsdp")]),
        *(({"kind": kind, "tensor_parallel": 2}, {"model__adapter": {"kind": "lora"}},
           [("strategy.tensor_parallel",
             "tensor parallelism does not split the linear maps of an adapter (take 1; kind: fsdp shards them)")])
          for kind in ("ddp", "fsdp")),
        ({"kind": "fsdp"}, {"model__adapter": {"kind": "lora"}}, []),
        ({"kind": "fsdp", "tensor_parallel": 4}, {}, []),
        ({"kind": "deepspeed", "zero": 2}, {"train__compile": True}, []),
    ],
)  # fmt: skip
def test_what_a_strategy_cannot_do_is_refused_with_its_key(strategy, train, told):
    assert layout.refusals(recipe(strategy=strategy, **train), BASE) == told


def test_a_layout_that_refuses_a_recipe_is_not_proposed_for_it():
    adapted = layout.layouts(recipe(model__adapter={"kind": "lora"}), BASE, 2)
    assert {other.strategy.tensor_degree for other in adapted} == {1}


def test_an_architecture_that_does_not_tell_its_heads_is_not_refused_for_them():
    silent = BASE.model_copy(update={"heads": 0})
    assert layout.refusals(recipe(strategy={"kind": "fsdp", "tensor_parallel": 5}), silent) == []


def test_a_library_that_is_not_installed_is_reported_and_never_proposed(monkeypatch):
    found = layout.find_spec
    monkeypatch.setattr(layout, "find_spec", lambda name: None if name == "deepspeed" else found(name))
    told = "deepspeed is not installed (pip install deepspeed, or take ddp or fsdp)"
    assert layout.misfits(recipe(strategy={"kind": "deepspeed"}), 2) == [("strategy", told)]
    assert {other.strategy.kind for other in layout.layouts(recipe(), BASE, 2)} == {"ddp", "fsdp"}
    assert layout.misfits(recipe(strategy={"kind": "fsdp"}), 2) == []


def test_layouts_are_of_every_kind_and_can_run():
    for ranks in (1, 2, 3, 4, 6):
        every = list(layout.layouts(recipe(), BASE, ranks))
        assert all(layout.misfits(other, ranks) == layout.refusals(other, BASE) == [] for other in every)
        kinds = {"single"} if ranks == 1 else {"ddp", "fsdp", "deepspeed"}
        assert {other.strategy.kind for other in every} == kinds
    odd = BASE.model_copy(update={"heads": 3})
    assert all(other.tensor_parallel == 1 for other in layout.layouts(recipe(), odd, 4))


# As a plan tells it


def mistakes(memory, **changes):
    cluster = Cluster(device="cpu", devices_per_node=2, memory_per_device=memory / GIB)
    with pytest.raises(UserError) as told:
        plan.make(Recipe.model_validate(support.mlm(**changes)), cluster, file="recipe.yaml")
    return str(told.value).splitlines()


def test_a_plan_that_does_not_fit_names_one_that_does(workspace):
    (told,) = mistakes(2 * 460 * 1024)
    found = (
        r"strategy: about 524\.1 KiB of 460\.0 KiB a device: does not fit \((nearest that fits: .*); "
        r"memory_per_device of the cluster overrides it\)"
    )
    of = Recipe.model_validate(support.mlm())
    proposed, count = taken(re.fullmatch(found, told)[1], of, 2)
    cluster = Cluster(device="cpu", devices_per_node=2, memory_per_device=2 * 460 * 1024 / GIB)
    made = plan.make(proposed, cluster, file="recipe.yaml", ranks=count)
    assert sum(made.memory.values()) <= 460 * 1024


def test_fp16_without_a_loss_scale_is_refused(workspace):
    what = "fp16 without a loss scale: gradients below 6e-8 would be lost (leave it out, or take precision: bf16)"
    assert mistakes(8 * GIB, train__precision="fp16", train__loss_scale="none") == [f"train.loss_scale: {what}"]
    for precision in ("fp32", "bf16"):
        of = Recipe.model_validate(support.mlm(train__precision=precision, train__loss_scale="none"))
        assert plan.make(of, Cluster(device="cpu"), file="recipe.yaml").precision == precision
