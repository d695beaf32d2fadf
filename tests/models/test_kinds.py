"""What every kind of model keeps to: a new one is covered by being there."""

import pytest
import support
import torch
from pydantic import ValidationError

from launcher.config import kinds
from launcher.config.errors import UserError
from launcher.config.recipe import PretrainedTokenizer
from launcher.models._transformers import ModelConfig


@pytest.fixture(params=kinds.available("models"))
def made(request, saved, trained):
    """A kind's module and its smallest configuration."""
    module = kinds.module("models", request.param)
    given = {"type": "bert", "name": str(saved), "run": str(trained[0].path)}
    keys = {name: value for name, value in given.items() if name in module.Config.model_fields}
    keys |= support.TINY if "type" in keys else {}
    return module, lambda **more: module.Config.model_validate({"kind": request.param, **keys, **more})


def test_its_configuration_has_the_name_of_its_module_as_kind(made):
    module, config = made
    assert issubclass(module.Config, ModelConfig)
    assert config().kind == module.__name__.rpartition(".")[2]


def test_it_refuses_a_key_it_does_not_know_at_the_latest_when_it_is_built(made, need):
    module, config = made
    with pytest.raises((ValidationError, UserError), match=r"unknown key .*\("):
        module.build(config(no_such_key=1), need())


def test_it_refuses_a_dropout_that_is_no_share(made):
    with pytest.raises(ValidationError, match="dropout"):
        made[1](dropout=1.0)


def test_its_tokenizer_is_a_name_or_none(made):
    module, config = made
    found = module.tokenizer(config())
    assert found is None or isinstance(found, str | PretrainedTokenizer)


@pytest.mark.parametrize("labels", [False, True])
def test_its_architecture_on_the_meta_device_is_that_of_the_model(made, need, labels):
    module, config = made
    with torch.device("meta"):
        empty, _ = module.build(config(), need(labels), weights=False)
    real, _ = module.build(config(), need(labels))
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    assert {p.device.type for p in real.parameters()} == {"cpu"}
    shapes = [{name: tuple(p.shape) for name, p in model.named_parameters()} for model in (empty, real)]
    assert shapes[0] == shapes[1]
    assert type(empty) is type(real)


@pytest.mark.parametrize("labels", [False, True])
def test_its_weights_are_those_of_the_seed(made, need, labels):
    module, config = made
    built = []
    for _ in range(2):
        torch.manual_seed(5)
        built.append(module.build(config(), need(labels))[0].state_dict())
    assert built[0].keys() == built[1].keys()
    assert all(torch.equal(tensor, built[1][name]) for name, tensor in built[0].items())


def test_its_weights_are_of_single_precision(made, need):
    module, config = made
    assert {p.dtype for p in module.build(config(), need())[0].parameters()} == {torch.float32}


def test_a_classifier_is_told_its_labels(made, need):
    module, config = made
    model, _ = module.build(config(), need(labels=True))
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model(input_ids=torch.tensor([[1, 5, 2]])).logits.shape == (1, 3)


def test_a_dropout_reaches_the_model(made, need):
    module, config = made
    model, _ = module.build(config(dropout=0.25), need())
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}


def test_notes_are_texts_and_there_are_none_without_weights(made, need):
    module, config = made
    assert module.build(config(), need(labels=True), weights=False)[1] == []
    assert all(isinstance(note, str) for note in module.build(config(), need(labels=True))[1])
