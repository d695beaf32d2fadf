"""Checkpointed activations change nothing but when they are computed."""

import functools
import logging

import numpy as np
import pytest
import torch
import torch.utils.checkpoint as checkpoint_module
import transformers
from support import probe_batches

from launcher.config.training import Train
from launcher.plan.layer_blocks import blocks
from launcher.train import compile_and_recompute, randomness_probe
from launcher.train.data_loader import ProbeBatch, ProbeBatches
from launcher.train.sample_randomness import ModelRandomness

SIZES = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 32}
HOW = {
    "none": [],
    "layers": [0, 1, 2, 3, 4],
    "every 1": [0, 1, 2, 3, 4],
    "every 2": [0, 2, 4],
    "every 3": [0, 3],
    "every 9": [0],
}


def made(how, foreign=()):
    """A model and what it draws: by the contract, or, with `foreign` randomness, from torch's generator."""
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.BertConfig(**SIZES, hidden_dropout_prob=0.2)).train()
    randomness = ModelRandomness(unreproducible=list(foreign))
    if not foreign:
        randomness = randomness_probe.take_over(model, lambda batch: loss(model, batch["x"]), BATCHES, "fp32")
        assert not randomness.unreproducible
    compile_and_recompute.apply(blocks(model), Train(global_batch=1, steps=1, activation_checkpointing=how), randomness)
    return model, randomness


def loss(model, x):
    return model(x).last_hidden_state.square().sum()


def trial(*numbers):
    batch = {"x": torch.arange(5, 11).expand(len(numbers), 6)}
    return ProbeBatch(batch, probe_batches.rows(np.array(numbers)))


BATCHES = ProbeBatches(trial(0), trial(0, 1), None, trial(2), trial(3), trial(2, 3))


def gradients(model, randomness):
    torch.manual_seed(7)
    with randomness.drawing(probe_batches.rows(np.array([7, 8]))):
        loss(model, torch.arange(5, 17).reshape(2, 6)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("foreign", [(), ("noise",)], ids=["by the contract", "from a generator"])
@pytest.mark.parametrize("how", HOW)
def test_gradients_are_the_same_to_the_last_bit_with_dropout(how, foreign):
    there, here = gradients(*made("none", foreign)), gradients(*made(how, foreign))
    assert there.keys() == here.keys() and len(there) > 80
    assert all(torch.equal(gradient, here[name]) for name, gradient in there.items())


@pytest.mark.parametrize("how", HOW)
def test_these_layers_are_computed_twice(how):
    (model, randomness), times = made(how), [0] * 5
    for number, block in enumerate(blocks(model)):

        def count(module, inputs, number=number):
            times[number] += 1

        block.intermediate.dense.register_forward_pre_hook(count)
    gradients(model, randomness)
    assert times == [2 if number in HOW[how] else 1 for number in range(5)]


@pytest.mark.parametrize("how", HOW)
def test_names_stay_those_of_the_bare_model(how):
    bare = transformers.AutoModel.from_config(transformers.BertConfig(**SIZES))
    model, _ = made(how)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in bare.named_parameters()]
    assert [name for name, _ in model.named_modules()] == [name for name, _ in bare.named_modules()]
    assert model.state_dict().keys() == bare.state_dict().keys()


class Keyword(torch.nn.Module):
    """A layer that is called with keywords alone, and draws from torch's generator."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, *, states, masks):
        return torch.nn.functional.dropout(self.linear(states), 0.5) * masks["kept"]


def test_the_generator_of_keyword_tensors_is_restored(monkeypatch):
    """The device is found in the positional arguments, so that tensors in keywords have to be among them."""
    seen = []
    found = checkpoint_module._infer_device_type
    monkeypatch.setattr(checkpoint_module, "_infer_device_type", lambda *args: seen.extend(args) or found(*args))
    layer, states = Keyword(), torch.ones(3, 4, requires_grad=True)
    masks = {"kept": torch.ones(3, 4)}
    train = Train(global_batch=1, steps=1, activation_checkpointing="layers")
    compile_and_recompute.apply([layer], train, ModelRandomness())
    torch.manual_seed(3)
    layer(states=states, masks=masks).sum().backward()
    assert len(seen) == 2 and seen[0] is states and seen[1] is masks
    there = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    torch.manual_seed(3)
    Keyword.forward(layer, states=states, masks=masks).sum().backward()
    assert all(torch.equal(one, p.grad) for one, p in zip(there, layer.parameters(), strict=True))


@pytest.fixture
def compiled(monkeypatch):
    """A compiled model without a compiler: the counts are those of torch's tracer."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    limit = torch._dynamo.config.recompile_limit
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.BertConfig(**SIZES)).train()
    randomness = randomness_probe.take_over(model, lambda batch: loss(model, batch["x"]), BATCHES, "fp32")

    def make():
        compile_and_recompute.apply(blocks(model), Train(global_batch=1, steps=1, compile=True), randomness)
        return model, randomness

    yield make
    torch._dynamo.config.recompile_limit = limit
    logging.getLogger(compile_and_recompute._DYNAMO).removeFilter(compile_and_recompute.report_limit)
    torch._dynamo.reset()


def step(model, randomness, rows, length):
    with randomness.drawing(probe_batches.rows(np.arange(rows))):
        loss(model, torch.arange(rows * length).reshape(rows, length) % 50 + 5).backward()


def test_many_lengths_are_compiled_a_few_times(compiled):
    """Once for any number of rows and tokens, and once for a single row; all layers share the code. It takes seconds,
    because nothing but a trace counts what is compiled."""
    model, randomness = compiled()
    for rows, length in [(4, 8), (3, 9), (1, 20), (2, 17), (5, 32), (1, 7), (6, 12), (2, 3)]:
        step(model, randomness, rows, length)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4


def test_a_layer_that_is_compiled_too_often_is_reported_in_one_line(compiled, caplog):
    model, randomness = compiled()
    assert torch._dynamo.config.recompile_limit == 64
    torch._dynamo.config.recompile_limit = 1
    for rows in (4, 1):
        step(model, randomness, rows, 8)
    said = [record.getMessage() for record in caplog.records if "train.compile" in record.getMessage()]
    assert len(said) == 1 and "\n" not in said[0]
    assert "is not compiled for further shapes, but runs as it is, which is slower (torch._dynamo hit config" in said[0]
    assert not [record for record in caplog.records if record.getMessage().startswith("torch._dynamo hit")]
