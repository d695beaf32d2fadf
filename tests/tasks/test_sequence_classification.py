"""Sequence classification: labels, pairs, and metrics computed by hand."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.text import Text
from tasks.measuring import measured

from launcher.config.errors import UserError
from launcher.contract.random import Draw, Stream
from launcher.tasks import IGNORE, FeatureContext, sequence_classification
from launcher.train.data_loader import tensors

CONFIG = sequence_classification.Config()
Task = sequence_classification.Task

properties = settings(deadline=None, max_examples=40)


def survey(labels):
    return Task.survey(CONFIG, {"label": set(labels)})["labels"]


@properties
@given(st.lists(st.integers(-50, 50), min_size=2, unique=True))
def test_labels_that_are_numbers_are_sorted_by_value(numbers):
    assert survey([str(n) for n in numbers * 2]) == [str(n) for n in sorted(numbers)]


@properties
@given(st.lists(st.text(st.sampled_from("abZ1-"), min_size=1, max_size=3), min_size=2, unique=True), st.randoms())
def test_the_order_of_the_labels_is_not_that_of_the_rows(labels, random):
    before = survey([*labels, "text"])
    random.shuffle(labels)
    assert survey(["text", *labels]) == before == sorted(before)


@pytest.mark.parametrize("labels", [[], ["one"], ["one", "one"]])
def test_fewer_than_two_labels_are_refused(labels):
    with pytest.raises(UserError, match=r"^data\.train\.label: \d label in the training data: .* two or more"):
        survey(labels)


def features(rows, encoder, labels, max_length=16):
    batch = pa.RecordBatch.from_pylist(rows, pa.schema([(name, pa.large_string()) for name in rows[0]]))
    found = Task.features(
        CONFIG, iter([batch]), FeatureContext({"labels": labels}, max_length, "data.validation", encoder)
    )
    return pa.concat_tables([one.table for one in found]).to_pylist()


def test_features_hold_the_number_of_the_label_and_the_whole_text(words, encoder):
    rows = [{"text": "the step", "label": "b"}, {"text": "a", "label": "a"}]
    found = features(rows, encoder, ["a", "b"])
    assert [row["label"] for row in found] == [1, 0]
    assert [row["input_ids"] for row in found] == [words(row["text"])["input_ids"] for row in rows]


def test_a_pair_is_encoded_with_types_and_truncated_in_its_longer_text(words, encoder):
    rows = [{"text": "the step " * 9, "text_pair": "loss", "label": "a"}]
    (row,) = features(rows, encoder, ["a", "b"])
    longer = words("the step " * 9, "loss", truncation=True, max_length=16)
    assert row["input_ids"] == longer["input_ids"]
    assert row["token_type_ids"] == longer["token_type_ids"]
    assert len(row["input_ids"]) == 16


def test_types_are_left_out_for_a_tokenizer_that_has_none(words, encoder, encoder_of):
    untyped = copy.copy(words)
    untyped.model_input_names = ["input_ids", "attention_mask"]
    rows = [{"text": "the", "text_pair": "loss", "label": "a"}]
    assert "token_type_ids" in features(rows, encoder, ["a", "b"])[0]
    assert "token_type_ids" not in features(rows, encoder_of(untyped), ["a", "b"])[0]


def test_an_unknown_label_is_reported_with_its_key(encoder):
    with pytest.raises(UserError, match=r"^data\.validation\.label: 'spotr' stands in .* \(did you mean sport\?\)"):
        features([{"text": "a", "label": "spotr"}], encoder, ["art", "sport"])


def test_the_baseline_is_the_share_of_the_most_frequent_class():
    tables = (pa.table({"label": pa.array(labels)}) for labels in ([2, 0, 2], [1, 2]))
    assert Task.baseline(CONFIG, tables, []) == {"majority_class": pytest.approx(0.6)}


@pytest.fixture
def task(facts_of):
    return Task(CONFIG, facts_of(labels=["art", "film", "sport"]))


def sample(token, label, length=2):
    return {"input_ids": np.array([token] * length), "labels": np.array([label])}


def test_the_model_gets_the_names_of_the_labels(task):
    assert task.model_options() == {
        "problem_type": "single_label_classification",
        "num_labels": 3,
        "id2label": {0: "art", 1: "film", 2: "sport"},
        "label2id": {"art": 0, "film": 1, "sport": 2},
    }


def test_samples_are_the_rows_whatever_seed_and_epoch(task):
    row = {"input_ids": np.array([1, 7, 2], np.uint16), "token_type_ids": np.array([0, 1, 1], np.uint8)}
    row |= {"label": np.int64(2), "length": 3}
    for seed, epoch in ((0, 0), (9, 4)):
        (found,) = task.samples([row], [epoch], [5], Draw(seed, Stream.MASK))
        assert {name: array.tolist() for name, array in found.items()} == {
            "input_ids": [1, 7, 2], "token_type_ids": [0, 1, 1], "labels": [2],
        }  # fmt: skip


def test_a_batch_pads_types_with_zero_and_keeps_labels_apart(task):
    one = {"input_ids": np.array([1, 7]), "token_type_ids": np.array([1, 1]), "labels": np.array([2])}
    other = {"input_ids": np.array([1]), "token_type_ids": np.array([1]), "labels": np.array([0])}
    batch = task.collate([one, other])
    assert batch["inputs"]["token_type_ids"].tolist() == [[1, 1], [1, 0]]
    assert batch["inputs"]["input_ids"].tolist() == [[1, 7], [1, task.facts.pad_token_id]]
    assert batch["inputs"]["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["labels"].tolist() == [2, 0]


class ByFirstToken(torch.nn.Module):
    """Logits of a sample from its first token: the logarithms of a table of probabilities."""

    def __init__(self, table):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(table, dtype=torch.float64).log())

    def forward(self, input_ids, attention_mask=None):
        return SimpleNamespace(logits=self.logits[input_ids[:, 0]])


TABLE = [[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.1, 0.2, 0.7]]
TRUE = [0, 0, 0, 1, 1, 2, 2, 2, 2, 1]
SAID = [0, 0, 1, 1, 2, 2, 2, 2, 0, 1]


def by_hand(true, said, classes=3):
    """Accuracy, and precision, recall and F1 by class, from a table of counts."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (true, said), 1)
    right = counts.diagonal()
    precision = right / np.maximum(counts.sum(axis=0), 1)
    recall = right / np.maximum(counts.sum(axis=1), 1)
    f1 = 2 * right / np.maximum(counts.sum(axis=0) + counts.sum(axis=1), 1)
    return right.sum() / counts.sum(), {"precision": precision, "recall": recall, "f1": f1}


def test_metrics_are_those_computed_by_hand(task):
    samples = [sample(said, true, 1 + n % 3) for n, (true, said) in enumerate(zip(TRUE, SAID, strict=True))]
    accuracy, scores = by_hand(TRUE, SAID)
    assert accuracy == 0.7
    expected = {"loss": -sum(math.log(TABLE[s][t]) for t, s in zip(TRUE, SAID, strict=True)) / 10}
    expected["accuracy"] = accuracy
    for name, values in scores.items():
        expected[name] = values.mean()
        expected |= {f"{name}/{label}": v for label, v in zip(("art", "film", "sport"), values, strict=True)}
    muted = [task.zero_weight(sample(0, 2)), task.zero_weight(sample(1, 0))]
    for groups in ([samples], [samples[:1], samples[1:]], [samples[::-1], muted], [[*muted, *samples]]):
        assert measured(task, ByFirstToken(TABLE), groups) == pytest.approx(expected)


def test_a_class_that_neither_occurs_nor_is_predicted_does_not_lower_the_means(task):
    found = measured(task, ByFirstToken(TABLE), [[sample(0, 0), sample(1, 1), sample(1, 0)]])
    _, scores = by_hand([0, 1, 0], [0, 1, 1], 2)
    assert found["f1"] == pytest.approx(scores["f1"].mean())
    assert found["f1/sport"] == 0


def test_the_loss_is_a_sum_over_samples_with_a_label(task):
    batch = tensors(task.collate([sample(0, 0), sample(1, 2), task.zero_weight(sample(2, 2))]))
    loss, weight = task.loss(ByFirstToken(TABLE), batch)
    assert float(loss.detach()) == pytest.approx(-math.log(0.7) - math.log(0.2))
    assert weight == 2


def test_the_weight_of_a_sample_is_one_or_zero(task):
    assert task.weight(sample(0, 0)) == 1
    muted = task.zero_weight(sample(0, 0))
    assert task.weight(muted) == 0
    assert muted["labels"].tolist() == [IGNORE]


def test_a_sample_is_rendered_with_its_label(task, words):
    shown = task.render({"input_ids": np.array(words("the step")["input_ids"]), "labels": np.array([2])}, words)
    assert Text.from_markup(shown).plain == "[CLS] the step [SEP] → sport"
