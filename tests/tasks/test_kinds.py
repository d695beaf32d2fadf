"""What every task keeps to, whatever its kind: a new one is covered by being there.

The loss of a batch has to be the sum of the losses of its samples, and nothing about how they were cut into
micro-batches may be seen in weight, gradient or metric.
"""

import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.text import Text
from tasks.measuring import measured, outputs

from launcher.config import kinds
from launcher.config.types import Plugin
from launcher.contract.random import Draw, Stream
from launcher.prepare import row_batches, shards
from launcher.tasks import FeatureContext
from launcher.train.data_loader import tensors

COUNT, MAX_LENGTH = 24, 16
TEACHER = {"kind": "config", "type": "bert", **support.TINY, "initializer_range": 0.5}
NEEDED = {
    "distillation": {"task": {"kind": "mlm"}, "teacher": TEACHER},
    "reward": {"reward": "launcher.tasks._rewards:vowels", "completions": 2, "max_new_tokens": 3},
}
"""Keys of the kinds that have some without a default."""
cuts = st.lists(st.integers(0, COUNT), max_size=4).map(lambda at: sorted({0, COUNT, *at}))


class Made:
    """A task of a kind, the table of its features, and samples of them."""

    def __init__(self, kind, texts, encoder, facts_of, **keys):
        self.module = kinds.module("tasks", kind)
        self.config = self.module.Config(**NEEDED.get(kind, {}), **keys)
        self.inner = getattr(self.config, "task", self.config)  # what samples are is asked of the task that is held
        self.asked = kinds.of("tasks", self.inner).Task
        columns = self.asked.required_columns(self.inner)
        self.encoder = encoder if self.asked.tokenized else None
        known = [
            {"text": text, "text_pair": text[::2], "label": f"label {n % 3}", "question": text, "context": text}
            | {"words": text.split(), "labels": [["O", "B-X", "I-X"][len(w) % 3] for w in text.split()]}
            | {"answers": {"text": [text.split()[0]], "answer_start": [0]}}
            | {"target": text[:9], "image": _image(n), "features": [n / 8, float(len(text)), -1.0]}
            for n, text in enumerate(texts)
        ]
        asked = [{str(name): _wanted(name, row) for name in columns if name in row} for row in known]
        batch = row_batches.batch_of(asked)
        self.rows = pa.Table.from_batches([batch])
        self.values = {name: set(shards.surveyed_values(batch.column(name))) for name in self.asked.survey_columns}
        self.survey = self.asked.survey(self.inner, self.values) if self.asked.survey_columns else {}
        found = {"labels": self.survey.get("labels", []), "shape": self.survey.get("shape", ())}
        self.facts = facts_of(**found, longest=MAX_LENGTH if self.encoder else 1)
        self.table = self.features()
        self.task = self.module.Task(self.config, self.facts)
        self.features_of = [self.row(self.table.num_rows - 1 - n) for n in range(COUNT)]  # short ones among them
        self.samples = self.draw(range(COUNT))

    def features(self, *sizes):
        """The table of the rows, read in batches of these sizes and the rest."""
        cuts = [0, *np.cumsum(sizes).tolist(), self.rows.num_rows]
        batches = [b for one, two in pairwise(cuts) for b in self.rows.slice(one, two - one).to_batches()]
        context = FeatureContext(self.survey, MAX_LENGTH, "data.train", self.encoder)
        return pa.concat_tables([found.table for found in self.asked.features(self.inner, iter(batches), context)])

    def row(self, number):
        values = self.table.slice(number, 1).to_pydict()
        return {k: np.array(v[0]) if isinstance(v[0], list) else v[0] for k, v in values.items()}

    def draw(self, ids, epochs=None, seed=7, stream=Stream.MASK):
        rows = [self.features_of[n % COUNT] for n in ids]
        return self.task.samples(rows, epochs or [0] * len(rows), list(ids), Draw(seed, stream))

    def batch(self, samples):
        return tensors(self.task.collate(samples))


def _image(number):
    """Of 8x12 pixels in colour."""
    return np.random.default_rng(number).integers(0, 256, (8, 12, 3), dtype=np.uint8)


def _wanted(column, row):
    """What a column holds of a row: a number or names where the task wants those."""
    wants = {"number": float(row["label"][-1]), "names": row["labels"]}
    return wants[column.wants] if hasattr(column, "wants") else row[column]


VARIANTS = {
    "several labels": ("sequence_classification", {"labels": "multi"}),
    "weighed classes": ("sequence_classification", {"class_weights": {"label 1": 0.25}, "label_smoothing": 0.1}),
    "all tokens": ("token_classification", {"label_all": True}),
}


@pytest.fixture(scope="module", params=[*kinds.available("tasks"), *VARIANTS])
def made(request, texts, encoder, facts_of):
    kind, keys = VARIANTS.get(request.param, (request.param, {}))
    return Made(kind, texts, encoder, facts_of, **keys)


PACKING = [kind for kind in kinds.available("tasks") if "samples" in kinds.module("tasks", kind).Config.model_fields]


@pytest.fixture(scope="module", params=PACKING)
def packing(request, texts, encoder, facts_of):
    """A task of a kind whose samples may share rows."""
    return Made(request.param, texts, encoder, facts_of, samples="packed")


@pytest.fixture(scope="module")
def model(made, tiny):
    model = tiny(made.task)
    made.task.prepare_model(model, made.batch(made.samples[:1]))
    return model


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_its_configuration_has_the_name_of_its_module_as_kind(made):
    assert issubclass(made.module.Config, Plugin)
    assert made.config.kind == made.module.__name__.rpartition(".")[2]


def test_it_refuses_a_key_it_does_not_know(made):
    with pytest.raises(ValidationError, match=r"unknown key \("):
        made.module.Config(**NEEDED.get(made.config.kind, {}), no_such_key=1)


def test_its_survey_is_json_and_the_same_each_time(made):
    if made.asked.survey_columns:
        assert made.survey == made.asked.survey(made.inner, made.values)
    assert json.loads(json.dumps(made.survey)) == made.survey


def test_the_preparation_key_is_json_with_a_name(made):
    said = made.asked.preparation_key(made.inner)
    assert json.loads(json.dumps(said)) == said
    assert isinstance(said["features"], str)
    assert said == made.asked.preparation_key(type(made.inner)(**made.inner.model_dump()))


def test_no_tokens_are_named_by_default(made):
    assert list(made.asked.named_tokens(made.inner)) == []


def test_columns_that_are_surveyed_or_predicted_are_columns(made):
    task = made.asked
    assert set(task.survey_columns) <= set(task.columns)
    assert set(task.target_columns) < set(task.columns)


def test_its_features_are_token_ids_with_their_lengths_or_have_a_length_of_1(made):
    lengths = made.table["length"].to_pylist()
    assert str(made.table.schema.field("length").type) == "int32"
    assert max(lengths) <= MAX_LENGTH + getattr(made.config, "max_target_length", 0)
    if not made.task.tokenized:
        assert set(lengths) == {1}
        return
    ids = made.table["input_ids"].to_pylist()
    targets = made.table["target"].to_pylist() if "target" in made.table.column_names else [[]] * len(ids)
    assert [len(one) + len(other) for one, other in zip(ids, targets, strict=True)] == lengths
    assert max(map(max, ids)) < made.facts.vocab_size


def test_its_features_are_the_same_each_time(made):
    assert made.features().equals(made.table)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(1, 40), max_size=3))
def test_its_features_do_not_depend_on_the_batches_of_rows(made, sizes):
    assert made.features(*sizes).combine_chunks().equals(made.table.combine_chunks())


def test_its_baseline_is_numbers_by_name(made):
    found = made.asked.baseline(made.inner, iter([made.table]), made.facts.special_ids)
    assert found or made.config.kind == "reward", "of what is not written yet frequencies tell nothing"
    assert all(isinstance(name, str) and np.isfinite(value) for name, value in found.items())


def test_its_baseline_does_not_depend_on_the_split_into_tables(made):
    ids = made.facts.special_ids
    whole = made.asked.baseline(made.inner, iter([made.table]), ids)
    tables = (made.table.slice(first, 7) for first in range(0, made.table.num_rows, 7))
    assert made.asked.baseline(made.inner, tables, ids) == pytest.approx(whole, rel=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, COUNT - 1), max_size=COUNT), st.integers(0, 2**40), st.integers(0, 2**63 - 1))
def test_a_sample_does_not_depend_on_its_batch(made, ids, epoch, seed):
    whole = made.draw(range(COUNT), [epoch] * COUNT, seed)
    part = made.draw(ids, [epoch] * len(ids), seed)
    assert len(part) == len(ids)
    assert all(same(sample, whole[number]) for sample, number in zip(part, ids, strict=True))


def test_samples_leaves_rows_unchanged(made):
    before = [{name: np.array(value) for name, value in row.items()} for row in made.features_of]
    made.draw(range(COUNT), seed=3)
    assert all(same(one, other) for one, other in zip(before, made.features_of, strict=True))


def test_samples_are_arrays_of_numbers_without_padding(made):
    for sample, row in zip(made.samples, made.features_of, strict=True):
        assert all(isinstance(array, np.ndarray) for array in sample.values())
        assert not made.task.tokenized or len(sample["input_ids"]) + len(row.get("target", ())) == row["length"]


def test_zero_weight_keeps_the_input(made):
    for sample in made.samples:
        before = {name: array.copy() for name, array in sample.items()}
        muted = made.task.zero_weight(sample)
        assert made.task.weight(muted) == 0
        assert same(made.task.collate([muted])["inputs"], made.task.collate([sample])["inputs"])
        assert same(sample, before)


def test_a_batch_is_padded_to_its_longest_sample(made):
    inputs = made.task.collate(made.samples)["inputs"]
    if not made.task.tokenized:
        assert [(array.shape, array.dtype.kind) for array in inputs.values()] == [((COUNT, *made.facts.shape), "f")]
        return
    longest = max(len(sample["input_ids"]) for sample in made.samples)
    assert {array.shape for array in inputs.values()} == {(COUNT, longest)}
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.int64)}


def gradient(made, model, samples):
    model.zero_grad()
    loss, weight = made.task.loss(model, made.batch(samples))
    loss.backward()
    assert loss.shape == ()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    return float(loss.detach()), weight, torch.cat([grad.flatten() for grad in grads])


@settings(deadline=None, max_examples=10)
@given(cuts, st.permutations(range(COUNT)))
def test_losses_weights_and_gradients_of_micro_batches_add_up_to_those_of_the_batch(made, model, cuts, order):
    loss, weight, grads = gradient(made, model, made.samples)
    pieces = [gradient(made, model, [made.samples[n] for n in order[a:b]]) for a, b in pairwise(cuts)]
    assert sum(p[1] for p in pieces) == weight == sum(map(made.task.weight, made.samples))
    assert sum(p[0] for p in pieces) == pytest.approx(loss, rel=1e-9)
    assert torch.allclose(sum(p[2] for p in pieces), grads, rtol=1e-8, atol=1e-10)


def test_a_sample_without_weight_adds_nothing_to_loss_weight_and_gradient(made, model):
    muted = [made.task.zero_weight(sample) for sample in made.samples[4:8]]
    loss, weight, grads = gradient(made, model, made.samples[:4])
    more_loss, more_weight, more_grads = gradient(made, model, [*made.samples[:4], *muted])
    assert more_weight == weight
    assert more_loss == pytest.approx(loss, rel=1e-9)
    assert torch.allclose(more_grads, grads, rtol=1e-8, atol=1e-10)


def test_a_batch_without_weight_has_zero_loss_with_a_gradient(made, model):
    muted = [made.task.zero_weight(sample) for sample in made.samples[:3]]
    loss, weight, grads = gradient(made, model, muted)
    assert (loss, weight) == (0.0, 0.0)
    assert not grads.any()


def metrics(made, model, groups):
    return measured(made.task, model, groups)


@settings(deadline=None, max_examples=10)
@given(cuts, st.permutations(range(COUNT)))
def test_metrics_do_not_depend_on_micro_batches_or_samples_without_weight(made, model, cuts, order):
    whole = metrics(made, model, [made.samples])
    pieces = [[made.samples[n] for n in order[a:b]] for a, b in pairwise(cuts)]
    pieces.append([made.task.zero_weight(made.samples[0])])
    assert metrics(made, model, pieces) == pytest.approx(whole, rel=1e-6)


def test_the_metric_called_loss_is_the_loss_over_the_weight(made, model):
    inner = getattr(made.task, "inner", made.task)  # a student is measured as one that learns alone
    loss, weight = inner.loss(model, made.batch(made.samples))
    loss = float(loss.detach())
    assert metrics(made, model, [made.samples])["loss"] == pytest.approx(loss / float(weight), rel=1e-6)


def test_metrics_are_numbers_without_labels(made, model):
    for groups in ([[made.task.zero_weight(made.samples[0])]], [made.samples]):
        assert all(isinstance(value, float) for value in metrics(made, model, groups).values())


def test_every_metric_has_a_direction(made, model):
    directions = made.task.directions()
    names = metrics(made, model, [made.samples])
    assert set(directions.values()) <= {"min", "max"}
    assert set(directions) == {name for name in names if "/" not in name}
    assert {name.partition("/")[0] for name in names} <= set(directions)
    assert directions["loss"] == "min"


def test_predictions_are_one_object_for_each_sample(made, model, words):
    told = made.task.predictions(outputs(made.task, model, [made.samples]), words)
    assert len(told) == COUNT
    assert all(isinstance(one, dict) and json.loads(json.dumps(one)) == one for one in told)


def test_a_sample_is_rendered_with_its_tokens(made, words):
    for sample in made.samples[:5]:
        shown = Text.from_markup(made.task.render(sample, words if made.task.tokenized else None)).plain
        tokens = words.convert_ids_to_tokens(sample["input_ids"].tolist()) if made.task.tokenized else ["→"]
        assert all(token in shown for token in tokens)


# Samples that share a row


def test_packed_samples_are_prepared_as_documents_are(packing):
    config = packing.module.Config
    said = {
        shape: packing.module.Task.preparation_key(config(samples=shape)) for shape in ("chunks", "documents", "packed")
    }
    assert said["packed"] == said["documents"] != said["chunks"]


def test_language_models_share_prepared_data():
    for keys in ({}, {"samples": "documents", "overflow": "split", "stride": 2}):
        mlm, causal = (kinds.module("tasks", kind) for kind in ("mlm", "causal_lm"))
        assert mlm.Task.preparation_key(mlm.Config(**keys)) == causal.Task.preparation_key(causal.Config(**keys))


def test_a_packed_row_concatenates_samples_and_restarts_positions(packing):
    some = packing.samples[:3]
    lengths = [len(sample["input_ids"]) for sample in some]
    row = packing.task.pack(some)
    for name in some[0]:
        assert np.array_equal(row[name], np.concatenate([sample[name] for sample in some]))
    assert row["position"].tolist() == [n for length in lengths for n in range(length)]
    assert row["document"].tolist() == [n + 1 for n, length in enumerate(lengths) for _ in range(length)]


def test_a_packed_row_has_the_weight_of_its_samples(packing):
    assert packing.task.weight(packing.task.pack(packing.samples)) == sum(map(packing.task.weight, packing.samples))
    assert packing.task.weight(packing.task.pack([packing.task.zero_weight(s) for s in packing.samples[:2]])) == 0


def test_rows_are_padded_with_document_0(packing):
    rows = [packing.task.pack(packing.samples[:3]), packing.task.pack(packing.samples[3:4])]
    batch = packing.task.collate(rows)
    lengths = [len(row["input_ids"]) for row in rows]
    assert batch["inputs"]["input_ids"].shape == batch["documents"].shape == (2, max(lengths))
    assert np.count_nonzero(batch["documents"], axis=1).tolist() == lengths
    assert (batch["documents"][1, lengths[1] :] == 0).all()
