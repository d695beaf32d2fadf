"""Weights of classes, smoothed labels, and several labels: torch's own numbers, and numbers by hand."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from tasks.measuring import measured, outputs
from torch.nn.functional import cross_entropy

from launcher.config.errors import UserError
from launcher.tasks import IGNORE, FeatureContext
from launcher.tasks.sequence_classification import Config, Task
from launcher.train.data_loader import tensors

LABELS = ["art", "film", "sport"]
LOGITS = [[2.0, -1.0, 0.5], [0.0, 1.0, -0.5], [-1.0, 0.3, 0.2]]


class ByFirstToken(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(LOGITS, dtype=torch.float64))

    def forward(self, input_ids, attention_mask=None):
        return SimpleNamespace(logits=self.logits[input_ids[:, 0]])


def sample(token, labels):
    return {"input_ids": np.array([token, 0]), "labels": np.array(labels)}


def task_of(facts_of, **keys):
    counts = keys.pop("counts", [])
    return Task(Config(**keys), facts_of(labels=LABELS, counts=counts))


SINGLE = [sample(0, [0]), sample(1, [0]), sample(2, [2]), sample(1, [1])]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("weights", "known"),
    [
        (None, None),
        ({"art": 0.25, "sport": 3}, [0.25, 1.0, 3.0]),
        ("balanced", [10 / 18, 10 / 9, 10 / 3]),
    ],
)
def test_loss_over_weight_is_the_mean_that_torch_takes(facts_of, weights, known, smoothing):
    task = task_of(facts_of, class_weights=weights, label_smoothing=smoothing, counts=[6, 3, 1])
    tensor = None if known is None else torch.tensor(known, dtype=torch.float64)
    model, batch = ByFirstToken(), tensors(task.collate([*SINGLE, task.zero_weight(SINGLE[0])]))
    logits, labels = model.requires_grad_(False)(input_ids=batch["inputs"]["input_ids"]).logits, batch["labels"]
    given = {"weight": tensor, "label_smoothing": smoothing, "ignore_index": IGNORE}
    expected = float(cross_entropy(logits, labels, reduction="mean", **given))
    loss, weight = task.loss(model, batch)
    assert float(loss.detach()) / float(weight) == pytest.approx(expected, rel=1e-12)
    assert weight == pytest.approx(sum(map(task.weight, SINGLE)), rel=1e-15)
    assert measured(task, model, [SINGLE[:1], SINGLE[1:]])["loss"] == pytest.approx(expected, rel=1e-12)


def test_weights_of_unknown_labels_are_reported(facts_of, tmp_path):
    facts = facts_of(labels=LABELS)
    with pytest.raises(UserError, match=r"^task\.class_weights\.spotr: no such label \(did you mean sport\?\)$"):
        Task.check(Config(class_weights={"spotr": 2.0}), facts, tmp_path)
    Task.check(Config(class_weights={"sport": 2.0}), facts, tmp_path)


def test_labels_that_are_numbers_may_be_weighed_as_numbers():
    assert Config(class_weights={0: 1, 1: 2.5}).class_weights == {"0": 1.0, "1": 2.5}


@pytest.mark.parametrize("keys", [{"class_weights": "balanced"}, {"label_smoothing": 0.1}])
def test_keys_of_single_labels_are_refused_for_several(keys):
    with pytest.raises(ValidationError, match="are for labels: single"):
        Config(labels="multi", **keys)


def test_labels_are_counted_without_those_that_are_not_known():
    tables = (pa.table({"label": labels}) for labels in ([0, 2, IGNORE], [2]))
    assert Task.count_labels(Config(), tables, 3) == [1, 0, 2]
    several = (pa.table({"label": pa.array(labels)}) for labels in ([[0, 2], []], [[2]]))
    assert Task.count_labels(Config(labels="multi"), several, 3) == [1, 0, 2]


# Several labels

SEVERAL = [sample(0, [1, 0, 1]), sample(1, [0, 1, 0]), sample(2, [0, 0, 0]), sample(1, [1, 1, 0])]


@pytest.fixture
def several(facts_of):
    return task_of(facts_of, labels="multi")


def test_the_loss_is_the_sum_of_binary_entropies_over_classes_and_samples(several):
    loss, weight = several.loss(ByFirstToken(), tensors(several.collate([*SEVERAL, several.zero_weight(SEVERAL[0])])))
    expected = sum(
        np.log1p(np.exp(-x)) if y else np.log1p(np.exp(x))
        for s in SEVERAL
        for x, y in zip(LOGITS[s["input_ids"][0]], s["labels"], strict=True)
    )
    assert float(loss.detach()) == pytest.approx(expected)
    assert weight == 4 == sum(map(several.weight, SEVERAL))


def test_metrics_of_several_labels_are_those_computed_by_hand(several):
    """Said: art and sport; film; film and sport; film."""
    found = measured(several, ByFirstToken(), [SEVERAL, [several.zero_weight(SEVERAL[2])]])
    assert found["accuracy"] == 2 / 4
    assert (found["micro_precision"], found["micro_recall"]) == (4 / 6, 4 / 5)
    assert found["micro_f1"] == pytest.approx(8 / 11)
    assert (found["precision/film"], found["recall/film"]) == (2 / 3, 1.0)
    assert (found["precision/art"], found["recall/art"]) == (1.0, 1 / 2)
    assert found["precision"] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    report = several.report(outputs(several, ByFirstToken(), [SEVERAL]))
    assert report["classes"]["art"]["support"] == 2.0
    assert "confusion" not in report


def test_predictions_of_several_labels(several):
    told = several.predictions(outputs(several, ByFirstToken(), [SEVERAL[:1]]), None)[0]
    assert told["labels"] == ["art", "sport"]
    assert told["probabilities"]["art"] == pytest.approx(1 / (1 + np.exp(-2)))


def test_a_row_may_have_any_number_of_labels(several, encoder):
    rows = [{"text": "the", "label": ["sport", "art"]}, {"text": "a", "label": []}]
    columns = {"text": pa.array(["the", "a"], pa.large_string()), "label": pa.array([r["label"] for r in rows])}
    context = FeatureContext({"labels": LABELS}, 16, "data.train", encoder)
    (made,) = Task.features(several.config, [pa.RecordBatch.from_pydict(columns)], context)
    assert made.table["label"].to_pylist() == [[2, 0], []]
    samples = several.samples([{"input_ids": np.array([1]), "label": np.array(n)} for n in ([2, 0], [])], [], [], None)
    assert [s["labels"].tolist() for s in samples] == [[1, 0, 1], [0, 0, 0]]
    assert Task.baseline(several.config, [made.table], []) == {"majority_set": 0.5}
