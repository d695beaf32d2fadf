"""Checkpointed activations change nothing but when they are computed."""

import numpy as np
import pytest
import torch
import transformers
from support import probe_batches

from launcher.config.recipe import Train
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
