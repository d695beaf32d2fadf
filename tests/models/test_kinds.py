"""What every kind of model keeps to: a new one is covered by being there."""

import copy
import sys
import types

import pytest
import support
import torch
from pydantic import ValidationError

from launcher.config import kinds
from launcher.config.errors import UserError
from launcher.config.model import ModelConfig
from launcher.config.tokenizer import PretrainedTokenizer
from launcher.models._transformers import TransformersConfig


def tiny(vocab_size, num_labels=None, dropout=0.1):
    """A factory for texts."""
    layers = torch.nn.Embedding(vocab_size, 8), torch.nn.Dropout(dropout), torch.nn.Linear(8, num_labels or vocab_size)
    return torch.nn.Sequential(*layers)


def _config(kind):
    return kinds.module("models", kind).Config


KINDS = kinds.available("models")
TRANSFORMERS = [kind for kind in KINDS if issubclass(_config(kind), TransformersConfig)]


@pytest.fixture(params=KINDS)
def made(request, saved, trained, monkeypatch):
    """A kind's module and its smallest configuration."""
    module = kinds.module("models", request.param)
    monkeypatch.setitem(sys.modules, "factories", types.SimpleNamespace(tiny=tiny, __file__="factories.py"))
    given = {"name": str(saved), "run": str(trained[0].path), "factory": "factories:tiny"}
    keys = {name: value for name, value in given.items() if name in module.Config.model_fields}
    keys |= {"config": {"type": "bert", **support.TINY}, "small": {"type": "mlp"}}.get(request.param, {})
    return module, lambda **more: module.Config.model_validate({"kind": request.param, **keys, **more})


@pytest.fixture(params=[False, True], ids=["tokens", "labels"])
def fits(request, made, need, images):
    """What a model of the kind may have to fit."""
    if made[0].__name__.endswith("small"):
        return images((2, 8, 8)) if request.param else images((5,))
    return need(request.param)


def inputs(fits):
    torch.manual_seed(0)
    return (
        {"values": torch.randn(2, *fits.shape)} if fits.shape else {"input_ids": torch.tensor([[1, 5, 2], [1, 6, 2]])}
    )


def test_its_configuration_has_the_name_of_its_module_as_kind(made):
    module, config = made
    assert issubclass(module.Config, ModelConfig)
    assert config().kind == module.__name__.rpartition(".")[2]


def test_it_refuses_a_key_it_does_not_know_at_the_latest_when_it_is_built(made, fits):
    module, config = made
    with pytest.raises((ValidationError, UserError), match=r"unknown key .*\("):
        module.Model(config(no_such_key=1)).build(fits)


@pytest.mark.parametrize("made", [kind for kind in KINDS if "dropout" in _config(kind).model_fields], indirect=True)
def test_it_refuses_a_dropout_that_is_no_share(made):
    with pytest.raises(ValidationError, match="dropout"):
        made[1](dropout=1.0)


def test_its_tokenizer_is_a_name_or_none(made):
    module, config = made
    found = module.Model(config()).tokenizer()
    assert found is None or isinstance(found, str | PretrainedTokenizer)


def test_its_architecture_on_the_meta_device_is_that_of_the_model(made, fits):
    module, config = made
    with torch.device("meta"):
        empty, _ = module.Model(config()).build(fits, weights=False)
    real, _ = module.Model(config()).build(fits)
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    assert {p.device.type for p in real.parameters()} == {"cpu"}
    shapes = [{name: tuple(p.shape) for name, p in model.named_parameters()} for model in (empty, real)]
    assert shapes[0] == shapes[1]
    assert type(empty) is type(real)


def test_its_weights_are_those_of_the_seed(made, fits):
    module, config = made
    built = []
    for _ in range(2):
        torch.manual_seed(5)
        built.append(module.Model(config()).build(fits)[0].state_dict())
    assert built[0].keys() == built[1].keys()
    assert all(torch.equal(tensor, built[1][name]) for name, tensor in built[0].items())


def test_its_weights_are_of_single_precision(made, fits):
    module, config = made
    assert {p.dtype for p in module.Model(config()).build(fits)[0].parameters()} == {torch.float32}


@pytest.mark.parametrize("made", TRANSFORMERS, indirect=True)
def test_a_classifier_is_reported_its_labels(made, need):
    module, config = made
    model, _ = module.Model(config()).build(need(labels=True))
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model(input_ids=torch.tensor([[1, 5, 2]])).logits.shape == (1, 3)


@pytest.mark.parametrize("made", TRANSFORMERS, indirect=True)
def test_a_dropout_reaches_the_model(made, need):
    module, config = made
    model, _ = module.Model(config(dropout=0.25)).build(need())
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}


def test_notes_are_texts_and_there_are_none_without_weights(made, fits):
    module, config = made
    first = next(name for name, _ in module.Model(config()).build(fits)[0].named_parameters())
    assert module.Model(config(freeze=[first])).build(fits, weights=False)[1] == []
    notes = module.Model(config(freeze=[first])).build(fits)[1]
    assert all(isinstance(note, str) for note in notes)
    assert any(note.startswith("frozen: 1 of ") for note in notes)


def test_what_is_frozen_does_not_train_and_all_else_does(made, fits):
    module, config = made
    names = [name for name, _ in module.Model(config()).build(fits)[0].named_parameters()]
    model, _ = module.Model(config(freeze=names[:-1])).build(fits)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == names[-1:]


def test_it_takes_its_inputs_by_name_and_so_does_a_copy(made, fits):
    module, config = made
    model = module.Model(config(adapter={"kind": "lora", "r": 2})).build(fits)[0].eval()
    given = inputs(fits)
    results = [getattr(found, "logits", found) for found in (model(**given), copy.deepcopy(model)(**given))]
    assert torch.equal(*results)
    assert results[0].shape[0] == 2
    assert results[0].shape[-1] == fits.options.get("num_labels", fits.vocab_size)


def test_an_adapter_trains_in_place_of_what_it_adapts(made, fits):
    module, config = made
    model, notes = module.Model(config(adapter={"kind": "lora", "r": 2})).build(fits)
    plain = {name for name, _ in module.Model(config()).build(fits)[0].named_parameters()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any(".lora_" in name for name in trained)
    assert not any("base_layer" in name for name in trained)
    assert {name.replace(".base_layer", "") for name, _ in model.named_parameters() if ".lora_" not in name} == plain
    assert any(note.startswith("lora on ") for note in notes)
