"""Whether a model takes packed rows is found by trying a tiny copy of it, when the plan is made."""

import json
import re
import subprocess

import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.config import kinds
from launcher.config.cluster import Cluster
from launcher.config.recipe import Recipe
from launcher.models import config
from launcher.plan import _tiny_model, facts, model_requirements, model_spec, plan
from launcher.plan.model_requirements import ModelRequirements

CLUSTER = Cluster(name="two", device="cpu", devices_per_node=2, memory_per_device=16)
MLM, CAUSAL = (kinds.module("tasks", kind).Task for kind in ("mlm", "causal_lm"))
POSITIONS = {"max_position_embeddings": 64}


def recipe(type_, task="mlm", **keys):
    return support.mlm(type_, model={"kind": "config", "type": type_, **keys}, task={"kind": task, "samples": "packed"})


def told(type_, task=MLM, max_length=128, **keys):
    """What a tiny copy of a model of the usual size tells."""
    pad = 1 if type_ in ("roberta", "camembert") else 0
    options = {"is_decoder": True, "use_cache": False} if task is CAUSAL else {}
    wanted = ModelRequirements(task.auto_class, options, 3000, pad, max_length)
    with torch.device("meta"):
        model, _ = config.Model(config.Config(type=type_, **keys)).build(wanted, weights=False)
    return _tiny_model.packs(model, wanted, task)


@pytest.mark.parametrize("type_", ["bert", "roberta", "modernbert", "distilbert", "electra", "albert"])
def test_encoders_that_keep_documents_apart_are_taken(type_):
    assert told(type_) == ""


@pytest.mark.parametrize("type_", ["gpt2", "bert", "llama", "mistral"])
def test_decoders_that_keep_documents_apart_are_taken(type_):
    assert told(type_, CAUSAL) == ""


@pytest.mark.parametrize(
    ("type_", "reason"),
    [
        ("deberta-v2", r"DebertaV2ForMaskedLM takes no packed rows: "),
        ("xlm", r"XLMWithLMHeadModel takes no packed rows: "),
        ("fnet", r"FNetForMaskedLM does not keep the documents of a packed row apart: its logits are \S+ off"),
        ("roformer", r"RoFormerForMaskedLM does not keep the documents of a packed row apart: "),
    ],
)
def test_others_are_refused_with_the_reason(type_, reason):
    assert re.match(reason, told(type_))


def test_attention_over_blocks_is_refused_where_samples_are_long_enough_for_it():
    assert told("big_bird") == ""
    assert "does not keep the documents of a packed row apart" in told("big_bird", max_length=1024)


def test_a_model_that_does_without_positions_is_refused(monkeypatch):
    """What no longer knows where a document begins is off, whatever the size of the model."""
    from transformers.models.bert.modeling_bert import BertEmbeddings

    forward = BertEmbeddings.forward
    monkeypatch.setattr(BertEmbeddings, "forward", lambda self, position_ids=None, **rest: forward(self, **rest))
    assert "does not keep the documents of a packed row apart" in told("bert")


def test_a_forgotten_window_is_noticed_where_samples_are_longer_than_half_of_it(monkeypatch):
    from launcher.tasks import _packed_rows

    make = _packed_rows.Packing._mask

    def only_global(self, documents):
        masks = make(self, documents)
        return masks["full_attention"] if isinstance(masks, dict) else masks

    assert told("modernbert", max_length=100) == ""
    monkeypatch.setattr(_packed_rows.Packing, "_mask", only_global)
    for max_length in (100, 512, 8192):
        assert "does not keep the documents of a packed row apart" in told("modernbert", max_length=max_length)


# The copy


def test_a_copy_keeps_a_layer_of_each_kind_in_their_order():
    assert _tiny_model.kept(12, []) == [0, 1]
    assert _tiny_model.kept(6, [["full", "near", "near"] * 2]) == [0, 1]
    assert _tiny_model.kept(6, [["near"] * 5 + ["full"]]) == [0, 5]
    assert _tiny_model.kept(6, [["near"] * 5 + ["full"], [1, 2, 1, 1, 1, 1]]) == [0, 1, 5]
    assert _tiny_model.kept(1, []) == [0]


def test_a_copy_is_small_and_keeps_windows_positions_and_the_share_of_keys():
    from transformers import LlamaConfig, ModernBertConfig

    small = next(_tiny_model._smaller(ModernBertConfig()))
    assert (small.num_hidden_layers, small.layer_types) == (2, ["full_attention", "sliding_attention"])
    assert (small.local_attention, small.max_position_embeddings, small.hidden_size) == (128, 8192, 32)
    assert 0 <= small.pad_token_id < small.vocab_size <= 256
    small = next(_tiny_model._smaller(LlamaConfig(num_attention_heads=32, num_key_value_heads=8, head_dim=128)))
    assert (small.num_attention_heads, small.num_key_value_heads, small.head_dim) == (2, 1, 16)


def test_making_a_copy_leaves_the_configuration_as_it_was():
    from transformers import ModernBertConfig

    whole = ModernBertConfig()
    before = whole.to_dict()
    assert list(_tiny_model._smaller(whole))[-1].to_dict() == before
    assert whole.to_dict() == before


def test_a_less_reduced_copy_is_tried_where_a_small_one_cannot_be_made(monkeypatch):
    tried = []
    built = _tiny_model._built

    def no_narrow_one(small, *rest):
        tried.append(small.hidden_size)
        if small.hidden_size == 32:
            raise ValueError("the widths do not fit")
        return built(small, *rest)

    monkeypatch.setattr(_tiny_model, "_built", no_narrow_one)
    assert told("bert", hidden_size=64, num_attention_heads=4) == ""
    assert tried == [32, 32, 64]  # with fewer layers and with all


def test_nothing_is_reported_where_no_copy_can_be_made(monkeypatch):
    monkeypatch.setattr(_tiny_model, "_PARAMETERS", 10)
    assert told("bert") is None
    assert _tiny_model.packs(torch.nn.Linear(2, 2), ModelRequirements("AutoModelForMaskedLM", {}, 9, 0, 8), MLM) is None


@settings(deadline=None, max_examples=200)
@given(st.integers(3, 20_000), st.one_of(st.just(0), st.integers(2, 8192)))
def test_documents_are_three_fill_a_row_and_one_is_longer_than_half_a_window(most, window):
    found = _tiny_model.lengths(most, window)
    assert len(found) == 3
    assert min(found) >= 1
    assert sum(found) <= most
    if window // 2 + 3 <= sum(found):
        assert max(found) > window // 2


# The plan


@pytest.mark.parametrize(("type_", "keys"), [("bert", {}), ("roberta", POSITIONS), ("modernbert", {})])
def test_a_plan_with_packed_rows_is_made(workspace, type_, keys):
    made = plan.make(Recipe.model_validate(recipe(type_, **support.TINY, **keys)), CLUSTER, file="recipe.yaml")
    assert made.notes == []


def test_a_plan_refuses_packed_rows_that_would_not_be_exact(workspace):
    file = support.write(recipe("deberta-v2", **support.TINY))
    done = support.launcher("plan", file, code=2)
    line = next(line for line in done.stderr.splitlines() if "task.samples" in line)
    assert line.startswith(f"{file}:")
    assert ": task.samples: DebertaV2ForMaskedLM takes no packed rows: " in line
    assert line.endswith("(take documents)")
    support.launcher("plan", file, "task.samples=documents")


def test_a_plan_says_where_it_is_left_to_the_start_of_the_run(workspace, monkeypatch):
    found = Recipe.model_validate(recipe("bert", **support.TINY))
    counted = model_spec.count(found, model_requirements.of(found, facts.guess(found)))
    monkeypatch.setattr(model_spec, "count", lambda *_: counted.model_copy(update={"packs": None}))
    note = "task.samples: whether BertForMaskedLM takes packed rows is tried when the run starts"
    assert plan.make(found, CLUSTER, file="recipe.yaml").notes == [note]


def test_the_answer_is_kept_apart_from_that_for_unpacked_rows(workspace, monkeypatch):
    packed = Recipe.model_validate(recipe("bert", **support.TINY, initializer_range=0.123))
    plain = Recipe.model_validate(support.changed(packed.model_dump(mode="json"), task__samples="documents"))
    answers = [model_spec.count(one, model_requirements.of(one, facts.guess(one))) for one in (packed, plain)]
    assert [answer.packs for answer in answers] == ["", None]
    monkeypatch.setattr(subprocess, "run", None)  # asked again, both are known
    again = [model_spec.count(one, model_requirements.of(one, facts.guess(one))) for one in (packed, plain)]
    assert json.dumps([a.model_dump() for a in again]) == json.dumps([a.model_dump() for a in answers])
