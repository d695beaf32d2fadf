"""Documents in one row are to a model what they are alone: logits, losses, gradients."""

import re

import numpy as np
import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.config.errors import UserError
from launcher.contract.packing import pack
from launcher.contract.random import Draw, Stream
from launcher.models import config
from launcher.plan.model_requirements import ModelRequirements
from launcher.tasks import _packed_rows, causal_lm, mlm
from launcher.train.data_loader import tensors

VOCABULARY, LONGEST = 120, 48
SMALL = {**support.TINY, "initializer_range": 0.5}
DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "dropout": 0.0, "initializer_range": 0.5}
WINDOWS = {**SMALL, "num_hidden_layers": 4, "local_attention": 16, "initializer_cutoff_factor": 9.0}
MODELS = {  # ModernBERT's window of 16 reaches 8 to each side: most documents are longer
    "bert": (mlm, SMALL),
    "roberta": (mlm, {**SMALL, "max_position_embeddings": LONGEST + 2}),
    "distilbert": (mlm, DISTILBERT),
    "modernbert": (mlm, WINDOWS),
    "gpt2": (causal_lm, {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": LONGEST, "initializer_range": 0.5}),
    "mistral": (causal_lm, {**SMALL, "num_key_value_heads": 1, "sliding_window": 8}),
}
REFUSED = {
    "deberta-v2": (r"DebertaV2ForMaskedLM takes no packed rows: ", SMALL),
    "fnet": (
        r"FNetForMaskedLM does not keep the documents of a packed row apart: its logits are \S+ off",
        {"hidden_size": 16},
    ),
    "xlm": (
        r"XLMWithLMHeadModel takes no packed rows: AssertionError",
        {"emb_dim": 16, "n_layers": 2, "n_heads": 2},
    ),
}


def built(type_, task, keys):
    torch.manual_seed(0)
    wanted = ModelRequirements(task.auto_class, task.model_options(), VOCABULARY, task.facts.pad_token_id, LONGEST)
    return config.Model(config.Config(type=type_, **keys)).build(wanted)[0].eval()


@pytest.fixture(scope="module")
def task_of(facts_of):
    """A task on documents or packed ones. RoBERTa's positions begin above its padding index, 1."""

    def make(module, samples, type_="bert"):
        pad = 1 if type_ == "roberta" else 0
        known = facts_of(
            vocab_size=VOCABULARY, pad_token_id=pad, mask_token_id=4, special_ids=[0, 1, 2, 3, 4], longest=LONGEST
        )
        return module.Task(module.Config(samples=samples), known)

    return make


def documents(task, lengths, seed=0):
    """Finished samples of these lengths, without padding in them."""
    draw = np.random.default_rng(seed)
    tokens = [draw.integers(5, VOCABULARY, length).astype(np.uint16) for length in lengths]
    rows = [{"input_ids": ids, "begins": np.ones(len(ids), bool), "length": len(ids)} for ids in tokens]
    return task.samples(rows, [0] * len(rows), list(range(len(rows))), Draw(seed, Stream.MASK))


class Pair:
    """A model under a task on documents, and a copy of it under one on packed rows."""

    def __init__(self, type_, task_of):
        module, keys = MODELS[type_]
        self.alone, self.packed = task_of(module, "documents", type_), task_of(module, "packed", type_)
        self.model, self.other = (built(type_, task, keys) for task in (self.alone, self.packed))
        self.other.load_state_dict(self.model.state_dict())
        example = documents(self.alone, [LONGEST])
        self.alone.prepare_model(self.model, tensors(self.alone.collate(example)))
        self.packed.prepare_model(self.other, tensors(self.packed.collate([self.packed.pack(example)])))

    def rows(self, samples):
        """The samples packed into rows, as a micro-batch."""
        rows = pack([len(sample["input_ids"]) for sample in samples], LONGEST)
        return self.packed.collate([self.packed.pack([samples[n] for n in row]) for row in rows])


@pytest.fixture(scope="module", params=MODELS)
def pair(request, task_of):
    return Pair(request.param, task_of)


def gradient(task, model, batch):
    model.zero_grad()
    loss, weight = task.loss(model, tensors(batch))
    loss.backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    return float(loss.detach()), weight, torch.cat([grad.flatten() for grad in grads])


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, LONGEST), min_size=1, max_size=9), st.integers(0, 1000))
def test_loss_weight_and_gradient_of_packed_documents_are_those_of_documents(pair, lengths, seed):
    """In fp32."""
    samples = documents(pair.alone, [LONGEST, *lengths], seed)
    loss, weight, grads = gradient(pair.alone, pair.model, pair.alone.collate(samples))
    packed_loss, packed_weight, packed_grads = gradient(pair.packed, pair.other, pair.rows(samples))
    assert packed_weight == weight > 0
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    assert float((packed_grads - grads).norm()) <= 1e-4 * float(grads.norm())


def test_metrics_of_packed_documents_are_those_of_documents(pair):
    samples = documents(pair.alone, [40, 8, 20, 20, 3])
    told = []
    for task, model, batch in (
        (pair.alone, pair.model, pair.alone.collate(samples)),
        (pair.packed, pair.other, pair.rows(samples)),
    ):
        with torch.no_grad():
            made = task.predict(model, tensors(batch))
        told.append(task.metrics({name: values.tolist() for name, values in made.items()}))
    assert told[1] == pytest.approx(told[0], rel=1e-5)


def logits(pair, rows):
    batch = tensors(pair.packed.collate(rows))
    with torch.no_grad():
        return pair.other(**pair.packed._packing.inputs(batch)).logits


def test_logits_do_not_depend_on_other_documents_in_the_row(pair):
    samples = documents(pair.packed, [15, 16, 17])
    other = documents(pair.packed, [15, 16, 17], seed=9)
    before = logits(pair, [pair.packed.pack(samples)])
    for number, place in enumerate((slice(0, 15), slice(15, 31), slice(31, 48))):
        changed = [other[n] if n == number else samples[n] for n in range(3)]
        off = (logits(pair, [pair.packed.pack(changed)]) - before)[0].abs().amax(-1)
        assert off[place].min() > 1e-3
        off[place] = 0
        assert off.max() <= 1e-6 * before.abs().max()


def test_padding_gives_numbers_and_changes_nothing(pair):
    long, short = documents(pair.packed, [40, 5])
    rows = [pair.packed.pack([long]), pair.packed.pack([short])]
    both = logits(pair, rows)
    assert both.isfinite().all()
    alone = logits(pair, rows[1:])
    assert torch.allclose(both[1, :5], alone[0], rtol=1e-5, atol=1e-5 * float(alone.abs().max()))


def test_a_row_without_weight_has_zero_loss_with_a_gradient(pair):
    muted = [pair.packed.pack([pair.packed.zero_weight(sample)]) for sample in documents(pair.packed, [12, 5])]
    loss, weight, grads = gradient(pair.packed, pair.other, pair.packed.collate(muted))
    assert (loss, weight) == (0.0, 0)
    assert not grads.any()


@pytest.mark.parametrize("type_", ["bert", "roberta", "gpt2"])
def test_positions_begin_at_the_first_position_of_the_model(task_of, type_):
    pair = Pair(type_, task_of)
    (row,) = [pair.packed.pack(documents(pair.packed, [3, 4]))]
    given = pair.packed._packing.inputs(tensors(pair.packed.collate([row])))
    first = 2 if type_ == "roberta" else 0
    assert given["position_ids"].tolist() == [[first + n for n in (0, 1, 2, 0, 1, 2, 3)]]


def test_a_padding_token_within_a_document_is_counted_as_the_model_counts_it(task_of):
    """Masking may put any token at random; RoBERTa takes its own padding for no position."""
    pair = Pair("roberta", task_of)
    samples = documents(pair.alone, [12, 9, 20])
    for sample in samples:
        sample["input_ids"][3] = 1
    alone = gradient(pair.alone, pair.model, pair.alone.collate(samples))
    together = gradient(pair.packed, pair.other, pair.rows(samples))
    assert together[0] == pytest.approx(alone[0], rel=1e-5)
    assert float((together[2] - alone[2]).norm()) <= 1e-4 * float(alone[2].norm())


# Models that take none


@pytest.mark.parametrize("type_", REFUSED)
def test_a_model_without_packed_rows_is_refused_with_the_reason(task_of, type_):
    reason, keys = REFUSED[type_]
    task = task_of(mlm, "packed")
    model = built(type_, task, keys).train()
    batch = tensors(task.collate([task.pack(documents(task, [LONGEST]))]))
    with pytest.raises(UserError) as told:
        task.prepare_model(model, batch)
    assert re.match(rf"task\.samples: {reason}.* \(take documents\)$", str(told.value))
    assert model.training


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_sample_of_a_few_tokens_is_enough_to_try(task_of, length):
    task = task_of(mlm, "packed")
    model = built("bert", task, SMALL)
    assert isinstance(
        _packed_rows.prepare(model, tensors(task.collate([task.pack(documents(task, [length]))])), 0, causal=False),
        _packed_rows.Packing,
    )


def test_a_window_that_is_not_given_is_noticed(task_of, monkeypatch):
    """With the mask of the global layers for all of them, ModernBERT is off."""
    task = task_of(mlm, "packed")
    model = built("modernbert", task, WINDOWS)
    ids = [torch.tensor(sample["input_ids"]) for sample in documents(task, [30, 10])]
    assert _packed_rows.packing_error(model, ids, 0, causal=False) is None
    mask = _packed_rows.Packing._mask
    monkeypatch.setattr(_packed_rows.Packing, "_mask", lambda self, documents: mask(self, documents)["full_attention"])
    assert "does not keep the documents of a packed row apart" in _packed_rows.packing_error(
        model, ids, 0, causal=False
    )
