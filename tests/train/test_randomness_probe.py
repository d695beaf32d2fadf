"""What a model draws is found by trying, whatever its architecture: taken over, or named."""

import copy
import random

import numpy as np
import pytest
import support
import torch
from support import probe_batches
from tasks.test_masked_head import ARCHITECTURES, PADDING, VOCABULARY, sample
from torch import nn
from torch.nn import functional

from launcher.config.errors import UserError
from launcher.models import config
from launcher.plan.facts import Facts
from launcher.plan.model_requirements import ModelRequirements
from launcher.tasks import causal_lm, image_classification, mlm, seq2seq, sequence_classification, token_classification
from launcher.train import randomness_probe


def facts(**given):
    known = {
        "digest": "", "vocab_size": VOCABULARY, "pad_token_id": PADDING, "mask_token_id": 4,
        "special_ids": [0, 1, 2, 3, 4], "labels": ["a", "b", "c"], "longest": 16, "samples": {}, "tokens": {},
        "baseline": {},
    }  # fmt: skip
    return Facts.model_validate({**known, **given})


def built(task, type_, **keys):
    torch.manual_seed(0)
    known = task.facts
    need = ModelRequirements(
        task.auto_class, task.model_options(), known.vocab_size, known.pad_token_id, 16, known.shape
    )
    return config.Model(config.Config(type=type_, **{"dropout": 0.1, **keys})).build(need)[0].double().train()


def taken_over(task, model, short, long=None, precision="fp64"):
    tried = probe_batches.of(task, short, long)
    task.prepare_model(model, tried.one.batch)
    return tried, randomness_probe.take_over(model, lambda batch: task.loss(model, batch)[0], tried, precision)


def masked(length, masked=2, seed=2):
    return sample(np.random.default_rng(seed), length, masked)


def drawn(task, model, tried, randomness):
    """The loss of two samples, by the contract."""
    with torch.no_grad(), randomness.drawing(tried.together.rows):
        return float(task.loss(model, tried.together.batch)[0])


def test_the_architectures_are_those_of_the_masked_head():
    assert len(ARCHITECTURES) == 19


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_draw_of_an_architecture_is_taken_over(kind):
    task = mlm.Task(mlm.Config(), facts())
    model = built(task, kind, **ARCHITECTURES[kind], initializer_range=0.3)
    tried, randomness = taken_over(task, model, masked(12))
    assert randomness.unreproducible == [] and len(randomness.modules) > 2
    first = drawn(task, model, tried, randomness)
    torch.manual_seed(5)
    assert drawn(task, model, tried, randomness) == first
    model.eval()
    assert drawn(task, model, tried, randomness) != pytest.approx(first, rel=1e-6), "something was dropped"


@pytest.mark.parametrize("kind", sorted(set(ARCHITECTURES) - {"longformer"}))
def test_draws_do_not_depend_on_padding(kind):
    """A short and a long document in a micro-batch give the losses that each gives alone, to 1e-9. An architecture that
    sees its padding is named: it computes something else without dropout too."""
    task = mlm.Task(mlm.Config(), facts())
    model = built(task, kind, **ARCHITECTURES[kind], initializer_range=0.3)
    tried, randomness = taken_over(task, model, masked(5), masked(12, seed=3))
    model.eval()
    alone = [float(task.loss(model, one.batch)[0].detach()) for one in (tried.short, tried.long)]
    together = float(task.loss(model, tried.together.batch)[0].detach())
    sees_padding = together != pytest.approx(sum(alone), rel=1e-9)
    assert sees_padding == (kind in ("convbert", "fnet", "funnel", "yoso"))
    named = [what.partition(" (")[0] for what in randomness.unreproducible]
    assert named == [f"{type(model).__name__} gives a sample another loss beside another sample"] * sees_padding


IMAGE = {"pixel_values": np.random.default_rng(0).normal(size=(3, 32, 32)), "labels": np.array([1])}
PICTURES = {"shape": (3, 32, 32), "vocab_size": 0}
TEXT = {"input_ids": np.arange(5, 14), "labels": np.array([1])}
LONGER = {"input_ids": np.arange(5, 17), "labels": np.array([1])}
TOKENS = {"input_ids": np.arange(5, 14), "labels": np.arange(9) % 3, "words": np.arange(9)}
PAIR = {"input_ids": np.arange(5, 14), "labels": np.arange(6, 12)}
NEXT = {"input_ids": np.arange(5, 14), "labels": np.arange(6, 15)}
SIDES = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "decoder_start_token_id": 0,
}  # fmt: skip
VIT = {"patch_size": 8, **support.TINY}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
SWIN = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "patch_size": 2, "window_size": 4}
OTHERS = {
    "bert, labels": (sequence_classification, TEXT, "bert", support.TINY),
    "distilbert, labels": (sequence_classification, TEXT, "distilbert", ARCHITECTURES["distilbert"]),
    "bert, tags": (token_classification, TOKENS, "bert", support.TINY),
    "bert, eager": (sequence_classification, TEXT, "bert", {**support.TINY, "attention": "eager"}),
    "gpt2": (causal_lm, NEXT, "gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}),
    "t5": (seq2seq, PAIR, "t5", T5),
    "bart, layers skipped": (seq2seq, PAIR, "bart", {**SIDES, "encoder_layerdrop": 0.3, "decoder_layerdrop": 0.3}),
    "vit": (image_classification, IMAGE, "vit", VIT),
    "swin, paths dropped": (image_classification, IMAGE, "swin", {**SWIN, "drop_path_rate": 0.5}),
    "convnext, paths dropped": (
        image_classification, IMAGE, "convnext",
        {
            "hidden_sizes": [8, 16], "depths": [2, 2], "num_stages": 2, "drop_path_rate": 0.5,
            "layer_scale_init_value": 1.0,
        },
    ),
    "beit, paths dropped": (image_classification, IMAGE, "beit", {**VIT, "drop_path_rate": 0.5}),
    "lora": (
        sequence_classification, TEXT, "bert", {**support.TINY, "adapter": {"kind": "lora", "r": 2, "dropout": 0.3}},
    ),
}  # fmt: skip


def of_kind(name):
    module, one, type_, keys = OTHERS[name]
    task = module.Task(module.Config(), facts(**(PICTURES if one is IMAGE else {})))
    return task, built(task, type_, **{**keys, "dropout": 0.1}), one


@pytest.mark.parametrize("name", OTHERS)
def test_other_tasks_and_known_kinds_of_randomness_are_taken_over(name):
    """Skipped layers, dropped paths, functional dropouts, attention written out, adapters."""
    task, model, one = of_kind(name)
    tried, randomness = taken_over(task, model, one)
    assert randomness.unreproducible == [] and randomness.modules
    first = drawn(task, model, tried, randomness)
    torch.manual_seed(5)
    assert drawn(task, model, tried, randomness) == first
    other = probe_batches.of(task, one, seed=1)
    assert drawn(task, model, other, randomness) != pytest.approx(first, rel=1e-6), "another seed"


def test_modules_keep_their_names_parameters_and_mode():
    task, model, one = of_kind("bert, labels")
    before = {name: type(module).__name__ for name, module in model.named_modules()}
    state, kinds = set(model.state_dict()), {name: type(module) for name, module in model.named_modules()}
    _, randomness = taken_over(task, model, one)
    assert {name: type(module).__name__ for name, module in model.named_modules()} == before
    assert all(isinstance(module, kinds[name]) for name, module in model.named_modules())
    assert set(model.state_dict()) == state and model.training
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    same = [model.get_submodule(f"bert.encoder.layer.{n}.output.dropout") for n in range(2)]
    assert type(same[0]) is type(same[1]), "one class, so that compiled layers share their code"
    assert set(randomness.modules) == {
        "bert.embeddings.dropout", "dropout",
        *(f"bert.encoder.layer.{n}.{of}" for n in range(2) for of in (
            "attention.self", "attention.output.dropout", "output.dropout")),
    }  # fmt: skip


def test_trying_leaves_generators_and_gradients_as_they_were():
    task, model, one = of_kind("bert, labels")
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    taken_over(task, model, one)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_outside_of_a_step_a_module_draws_as_it_always_did():
    task, model, one = of_kind("bert, labels")
    plain = copy.deepcopy(model)
    tried, _ = taken_over(task, model, one)
    for mode in (True, False):
        values = []
        for each in (plain, model):
            torch.manual_seed(1)
            values.append(float(task.loss(each.train(mode), tried.one.batch)[0].detach()))
        assert values[0] == values[1]


# Models of one's own


class Own(nn.Module):
    """Two layers; `noise(hidden)` comes between them."""

    def __init__(self, noise):
        super().__init__()
        self.embed, self.out, self.noise = nn.Embedding(VOCABULARY, 16, PADDING), nn.Linear(16, 3), noise

    def forward(self, input_ids, attention_mask=None):
        return self.out(self.noise(self.embed(input_ids)).mean(1))


class Noise(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, hidden):
        return self.make(hidden) if self.training else hidden


def own(noise):
    torch.manual_seed(0)
    task = sequence_classification.Task(sequence_classification.Config(), facts())
    return task, Own(noise).double().train()


OWN = {
    "rand": lambda x: x * (torch.rand(x.shape, dtype=x.dtype) < 0.7),
    "rand_like": lambda x: x + torch.rand_like(x),
    "randn_like": lambda x: x + torch.randn_like(x),
    "of the batch": lambda x: x * torch.rand(len(x), 1, 1, dtype=x.dtype),
    "for all": lambda x: x + torch.rand(16, dtype=x.dtype),
    "bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, 0.7)),
    "bernoulli_": lambda x: x * torch.empty_like(x).bernoulli_(0.7),
    "jitter": lambda x: x * torch.empty_like(x).uniform_(0.9, 1.1),
    "gumbel": lambda x: functional.gumbel_softmax(x, tau=0.5),
    "channels": lambda x: functional.dropout1d(x, 0.3),
    "tokens flattened": lambda x: functional.dropout(x.flatten(0, 1), 0.3).view_as(x),
    "heads flattened": lambda x: (
        functional.dropout(x.unflatten(-1, (2, 8)).transpose(1, 2).flatten(0, 1), 0.3)
        .unflatten(0, (len(x), 2))
        .transpose(1, 2)
        .flatten(2)
    ),
    "samples in the middle": lambda x: functional.dropout(x.transpose(0, 1), 0.3).transpose(0, 1),
    "samples last": lambda x: functional.dropout(x.movedim(0, -1), 0.3).movedim(-1, 0),
    "attention of torch": nn.TransformerEncoderLayer(16, 2, 32, dropout=0.3, batch_first=True),
    "twice": lambda x: functional.dropout(functional.dropout(x, 0.3), 0.3),
}


@pytest.mark.parametrize("how", OWN)
def test_random_functions_in_a_model_of_ones_own_are_taken_over(how):
    noise = OWN[how]
    task, model = own(copy.deepcopy(noise) if isinstance(noise, nn.Module) else Noise(noise))
    tried, randomness = taken_over(task, model, TEXT)
    assert randomness.unreproducible == [] and {name.partition(".")[0] for name in randomness.modules} == {"noise"}
    first = drawn(task, model, tried, randomness)
    torch.manual_seed(5)
    assert drawn(task, model, tried, randomness) == first != drawn(task, model.eval(), tried, randomness)


def test_a_module_that_runs_twice_draws_twice():
    shared = nn.Dropout(0.5)
    task, model = own(shared)
    seen = []
    model.noise = nn.Sequential(
        shared, Noise(lambda x: seen.append(x) or x), shared, Noise(lambda x: seen.append(x) or x)
    )
    tried, randomness = taken_over(task, model, TEXT)
    seen.clear()
    drawn(task, model, tried, randomness)
    first, both = (x == 0 for x in seen)
    assert 0.45 < float(first.double().mean()) < 0.55 and 0.7 < float(both.double().mean()) < 0.8
    seen.clear()
    drawn(task, model, tried, randomness)
    assert torch.equal(first, seen[0] == 0) and torch.equal(both, seen[1] == 0), "the next step counts from 0 again"


def test_one_module_may_draw_tensors_of_several_shapes():
    """Of tokens, then of a position that all samples share, then of whole samples."""
    drop = nn.Dropout(0.5)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = drop

        def forward(self, x):
            return self.drop(x) + self.drop(x[:1] * 0 + 1) + self.drop(x.mean(1))[:, None]

    task, model = own(Both())
    tried, randomness = taken_over(task, model, TEXT)
    assert randomness.unreproducible == []
    assert [[site.axes[0] for site in sites] for sites in randomness.modules["noise.drop"].sites] == [
        ["sample"], ["other"], ["sample"],
    ]  # fmt: skip
    first = drawn(task, model, tried, randomness)
    assert drawn(task, model, tried, randomness) == first


def test_more_invocations_than_were_seen_have_draws_of_their_own():
    """A sample that is cut into more chunks than the one that was tried."""
    drop, seen = nn.Dropout(0.5), []
    noise = Noise(lambda x: torch.cat([drop(part) for part in x.split(9, 1)], 1))
    noise.drop = drop
    task, model = own(noise)
    _, randomness = taken_over(task, model, TEXT)
    drop.register_forward_hook(lambda module, inputs, output: seen.append(output == 0))
    long = {"input_ids": np.arange(27) % 40 + 5, "labels": np.array([1])}
    tried = probe_batches.of(task, long)
    drawn(task, model, tried, randomness)
    assert len(seen) == 3 and not any(torch.equal(seen[a], seen[b]) for a, b in ((0, 1), (1, 2), (0, 2)))


def test_a_copy_draws_as_its_model_does():
    task, model = own(nn.Dropout(0.5))
    tried, randomness = taken_over(task, model, TEXT)
    assert drawn(task, copy.deepcopy(model), tried, randomness) == drawn(task, model, tried, randomness)


def test_buffers_are_left_as_they_were():
    task, model = own(nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16)))
    model.double()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    named = taken_over(task, model, TEXT)[1].unreproducible
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers()) and before
    assert len(named) == 1 and named[0].endswith(" computes something else each time it runs")


def _there(x):
    """The tokens that are no padding, whose embedding is 0."""
    return x.abs().sum(-1) != 0


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(16, 16, num_layers=2, dropout=0.3, batch_first=True)

    def forward(self, hidden):
        return self.lstm(hidden)[0]


FOREIGN = {
    "numpy": (Noise(lambda x: x * np.random.rand()), "noise draws random numbers of its own"),
    "python": (Noise(lambda x: x * random.random()), "noise draws random numbers of its own"),
    "alpha": (nn.AlphaDropout(0.3), "noise draws random numbers of its own"),
    "lstm": (Lstm(), "noise.lstm draws random numbers of its own"),
    "a permutation": (
        Noise(lambda x: x[:, torch.randperm(x.shape[1])] * torch.arange(x.shape[1])[:, None]),
        "noise draws random numbers of its own",
    ),
    "rows in pairs": (
        Noise(lambda x: x + functional.dropout(x.sum(1)[:, None] * x.sum(1)[None], 0.3).sum(1, keepdim=True)),
        "noise draws numbers that belong to no single sample",
    ),
    "a permutation of the batch": (
        Noise(lambda x: x + 0.1 * x[torch.randperm(len(x))]),
        "noise draws random numbers of its own",
    ),
    "tokens of all samples in one row": (
        Noise(lambda x: x.index_put((_there(x),), functional.dropout(x[_there(x)], 0.3))),
        "noise draws for 21 rows of a micro-batch of 2",
    ),
    "now and then": (
        Noise(lambda x: functional.dropout(x, 0.3) if len(x) > 1 else x),
        "noise draws another number of times in another micro-batch",
    ),
}


@pytest.mark.parametrize("how", FOREIGN)
def test_randomness_that_cannot_be_taken_over_is_named_with_its_module(how):
    noise, told = FOREIGN[how]
    named = taken_over(*own(copy.deepcopy(noise)), TEXT, LONGER)[1].unreproducible
    assert [what.partition(" (")[0] for what in named] == [told]


def test_samples_that_are_mixed_are_named():
    task, model = own(Noise(lambda x: x + functional.dropout(x, 0.3).mean(0)))
    (named,) = taken_over(task, model, TEXT)[1].unreproducible
    assert named.startswith("Own gives a sample another loss beside another sample (")


def test_a_task_that_draws_is_named():
    task, model = own(nn.Identity())
    plain = task.loss
    task.loss = lambda model, batch: (plain(model, batch)[0] * torch.rand(()), 1.0)
    assert taken_over(task, model, TEXT)[1].unreproducible[0] == "the task draws random numbers of its own"


@pytest.mark.parametrize("rate", [1.0, 1.5, -0.1])
def test_a_rate_that_is_none_is_refused_with_its_module(rate):
    noise = Noise(lambda x: functional.dropout(x, rate))
    with pytest.raises(UserError, match=f"model: noise: a dropout rate is at least 0 and below 1, not {rate}"):
        taken_over(*own(noise), TEXT)
