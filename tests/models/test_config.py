"""An architecture from scratch: its type, its keys, and what is wrong with them."""

import pytest
import support
import torch

from launcher.config.errors import UserError
from launcher.models import config


def mistake(need, **keys):
    with pytest.raises(UserError) as told:
        config.Model(config.Config(**keys)).build(need)
    return str(told.value)


@pytest.mark.parametrize(
    ("kind", "hint"), [("brt", "did you mean bert?"), ("qqqqq", "see the transformers documentation")]
)
def test_an_unknown_type_is_reported_with_a_hint(need, kind, hint):
    assert mistake(need(), type=kind) == f"model.type: unknown type {kind!r} ({hint})"


def test_all_unknown_keys_are_reported_at_once_with_hints(need):
    told = mistake(need(), type="bert", hiden_size=16, hidden_size=16, zzzzzzzz=1)
    assert told.splitlines() == [
        "model.hiden_size: unknown key of BertConfig (did you mean hidden_size?)",
        "model.zzzzzzzz: unknown key of BertConfig (see the transformers documentation)",
    ]


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"hidden_size": "abc"}, "'hidden_size' expected int, got str"),
        ({"hidden_size": 10, "num_attention_heads": 3}, "The hidden size (10) is not a multiple of the number"),
    ],
)
def test_values_that_transformers_refuses_are_reported_in_its_words(need, keys, what):
    told = mistake(need(), type="bert", **{**support.TINY, **keys})
    assert told.startswith("model: ")
    assert what in told
    assert "\n" not in told


def test_an_architecture_without_the_tasks_head_is_reported(need):
    told = "gpt2 has no model for this task, AutoModelForMaskedLM (take one such as bert, modernbert, roberta, bart)"
    assert mistake(need(), type="gpt2") == f"model: {told}"


@pytest.mark.parametrize("keys", [{"head": "new"}, {"reinit_layers": 1}], ids=str)
def test_what_cannot_be_newer_than_new_is_reported(need, keys):
    _, notes = config.Model(config.Config(type="bert", **support.TINY, **keys)).build(need())
    assert notes == [f"model.{next(iter(keys))} does nothing: every weight of a new model is new"]


def test_keys_go_to_the_configuration(need):
    model, notes = config.Model(config.Config(type="bert", **support.TINY, hidden_act="relu")).build(need())
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (16, 2)
    assert model.config.hidden_act == "relu"
    assert notes == []


def test_a_key_may_have_the_name_that_other_architectures_give_it(need):
    keys = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_dim": 32}
    model, _ = config.Model(config.Config(type="distilbert", **keys)).build(need())
    assert (model.config.dim, model.config.n_layers) == (16, 1)


def test_vocabulary_and_padding_are_those_of_the_tokenizer(bert):
    model = bert()
    assert model.get_input_embeddings().weight.shape == (60, 16)
    assert model.config.pad_token_id == 3


def test_another_seed_draws_other_weights(bert):
    one, other = bert(seed=1), bert(seed=2)
    assert not torch.equal(one.get_input_embeddings().weight, other.get_input_embeddings().weight)


def test_it_brings_no_tokenizer():
    assert config.Model(config.Config(type="bert")).tokenizer() is None


def test_attention_dropout_is_that_of_attention_weights_alone(need):
    for kind, hidden, of_attention in (
        ("bert", "hidden_dropout_prob", "attention_probs_dropout_prob"),
        ("distilbert", "dropout", "attention_dropout"),
    ):
        made = config.Model(config.Config(type=kind, dropout=0.25, attention_dropout=0.0)).build(need())[0].config
        assert (getattr(made, hidden), getattr(made, of_attention)) == (0.25, 0.0)
    with pytest.raises(UserError, match=r"model\.attention_dropout: fnet has no dropout of attention weights alone"):
        config.Model(config.Config(type="fnet", attention_dropout=0.0)).build(need())


@pytest.mark.parametrize("key", ["hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"])
@pytest.mark.parametrize("rate", [1, 1.0, 1.5, -0.1])
def test_a_rate_outside_of_0_to_1_is_refused(need, key, rate):
    with pytest.raises(UserError, match=rf"model\.{key}: {rate}: a dropout rate is at least 0 and below 1"):
        config.Model(config.Config(type="bert", **{key: rate})).build(need())
