"""A step draws nothing from torch, whatever is trained; compiled layers draw the same."""

import json
import os
from pathlib import Path

import pytest
import support
import torch
from support import probe_batches, ranks, strategy_steps
from test_dropout_layouts import RECIPES

from launcher.contract.random import Stream, seed_for
from launcher.distributed import process_group
from launcher.train import randomness_probe
from launcher.train.sample_randomness import ModelRandomness

FORBIDDEN = ("bernoulli", "dropout", "rand", "normal_", "uniform_", "exponential_", "multinomial")
"""Parts of the names of torch's random operations. Ours is launcher::keep_in_blocks."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place, before = support.corpus(tmp_path_factory.mktemp("drawn")), Path.cwd()
    os.chdir(place)
    names = ("bert", "distilbert", "digits")
    files = {name: support.write(json.loads(json.dumps(RECIPES[name])), f"{name}.yaml") for name in names}
    yield {name: place / ranks.ready(file) for name, file in files.items()}
    os.chdir(before)


@pytest.mark.parametrize("name", ["bert", "distilbert", "digits"])
def test_no_random_operation_and_no_generator_is_used_in_a_step(folders, name):
    alone = process_group.connect(process_group.RankInfo(), "cpu")
    run = strategy_steps.build(alone, folders[name], {"kind": "single"})
    assert run.randomness.unreproducible == [] and run.randomness.modules
    with torch.profiler.profile() as profile:
        strategy_steps.take(run, 2)
    after = torch.get_rng_state()
    torch.manual_seed(seed_for(run.recipe.seed, Stream.STEP, 1))
    assert torch.equal(after, torch.get_rng_state()), "as it was when the step began"
    names = {event.key for event in profile.key_averages()}
    assert "launcher::keep_in_blocks" in names
    assert [name for name in names if any(part in name for part in FORBIDDEN)] == []


def test_what_is_forbidden_would_be_seen():
    layer = torch.nn.Dropout(0.5).train()
    with torch.profiler.profile() as profile:
        layer(torch.ones(3)), torch.rand(3), torch.randn(3)
    names = {event.key for event in profile.key_averages()}
    assert {part for part in FORBIDDEN if any(part in name for name in names)} >= {"bernoulli", "dropout", "rand"}


def test_compiled_layers_draw_the_same_in_one_graph_for_all_of_them():
    """By the tracer alone, without a compiler of machine code; lengths odd and even."""
    import transformers

    torch._dynamo.reset()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    model = transformers.AutoModel.from_config(transformers.BertConfig(vocab_size=60, **sizes)).double().train()
    made = take_over(model)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def value(rows, length):
        ids = torch.arange(5, 5 + len(rows) * length).reshape(len(rows), length) % 60
        with made.drawing(probe_batches.rows(torch.tensor(rows).numpy())):
            return float(model(ids).last_hidden_state.square().sum().detach())

    cases = [((7, 8), 6), ((9, 3, 4), 7), ((1, 2), 8)]
    expected = [value(*case) for case in cases]
    for layer in model.encoder.layer:
        layer.forward = torch.compile(layer.forward, dynamic=True, backend=backend, fullgraph=True)
    assert [value(*case) for case in cases] == pytest.approx(expected, rel=1e-12)
    assert len(graphs) == 1


def take_over(model):
    def trial(*numbers):
        batch = {"x": torch.arange(5, 11).expand(len(numbers), 6)}
        return randomness_probe.ProbeBatch(batch, probe_batches.rows(torch.tensor(numbers).numpy()))

    made = randomness_probe.take_over(
        model,
        lambda batch: model(batch["x"]).last_hidden_state.square().sum(),
        randomness_probe.ProbeBatches(trial(0), trial(0, 1), None, trial(2), trial(3), trial(2, 3)),
        "fp64",
    )
    assert isinstance(made, ModelRandomness) and made.unreproducible == [] and len(made.modules) == 10
    return made
