"""Targets of any number of labels for each sample: preparation and head."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.config.errors import Problem, UserError
from launcher.tasks import IGNORE, Array, Directions, JsonObject, Outputs, _labels, _metrics
from launcher.tasks._single_label import SCORES, SCORES_AND_SUPPORT, by_class, class_report
from launcher.tasks._single_label import count_labels as count_single_labels
from launcher.tasks._target_kinds import TargetKind

if TYPE_CHECKING:
    import torch


def numbers(batch: pa.RecordBatch, labels: Sequence[str], key: str) -> pa.Array:
    """Return lists with the numbers of each row's labels, int64; [IGNORE] if there is no column `label`. Raises
    UserError for an unknown label."""
    if "label" not in batch.schema.names:
        return pa.array([[IGNORE]] * batch.num_rows, pa.list_(pa.int64()))
    names = batch.column("label")
    return pa.ListArray.from_arrays(names.offsets, _labels.indices(names.values, labels, f"{key}.label"))


def count_labels(training: Iterable[pa.Table], classes: int) -> list[int]:
    """Return the number of samples with each label. Raises UserError if every sample has every label."""
    rows, total = 0, np.zeros(classes, np.int64)
    for table in training:
        rows += table.num_rows
        total += count_single_labels([table["label"].combine_chunks().flatten()], classes)
    counts: list[int] = total.tolist()
    if min(counts) >= rows > 1:
        hint = "(lists of 0 and 1, one for each class, are read as labels 0 and 1: list the classes of the row)"
        raise UserError(Problem("data.train.label", f"every row has all {classes} labels {hint}"))
    return counts


def baseline(validation: Iterable[pa.Table]) -> dict[str, float]:
    """Return the accuracy of always predicting the most frequent set of labels."""
    counts = Counter(frozenset(labels) for table in validation for labels in table["label"].to_pylist())
    return {"majority_set": max(counts.values()) / counts.total()}


class MultiLabelTarget(TargetKind):
    """Any number of labels. A target has shape (classes,): 1 for each label of the sample, else 0.

    A target of IGNORE only has no weight.
    """

    def __init__(self, labels: Sequence[str]):
        self.labels, self.output_size = labels, len(labels)

    def model_options(self) -> JsonObject:
        return {**_labels.model_options(self.labels), "problem_type": "multi_label_classification"}

    def target(self, label: object) -> Array:
        classes = np.asarray(label).astype(np.int64)
        if IGNORE in classes:
            return np.full(self.output_size, IGNORE, dtype=np.int64)
        target = np.zeros(self.output_size, dtype=np.int64)
        target[classes] = 1
        return target

    def collate(self, targets: Sequence[Array]) -> Array:
        return np.stack(targets)

    def weight(self, target: Array) -> float:
        return float(target[0] != IGNORE)

    def zero_weight(self, target: Array) -> Array:
        return np.full_like(target, IGNORE)

    def loss(self, logits: "torch.Tensor", labels: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        return _cross_entropies(logits, labels).sum(), (labels[:, 0] != IGNORE).sum()

    def predict(self, logits: "torch.Tensor", labels: "torch.Tensor") -> "dict[str, torch.Tensor]":
        weight = (labels[:, 0] != IGNORE).double()
        return {"loss": _cross_entropies(logits, labels), "weight": weight, "label": labels, "logits": logits}

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """Return scores of each class, their means, and `micro_` scores over all labels together. `accuracy` is the
        share of samples without a wrong label."""
        truth, predicted = self._labelled(outputs)
        exact = (truth == predicted).all(1)
        metrics = {"loss": _metrics.mean_loss(outputs), "accuracy": float(exact.mean()) if len(truth) else 0.0}
        scores, micro = _scores(truth, predicted, None), _scores(truth, predicted, "micro")
        metrics |= {name: float(scores[name].mean()) for name in SCORES}
        metrics |= {f"micro_{name}": float(micro[name]) for name in SCORES}
        return metrics | by_class(scores, self.labels)

    def directions(self) -> Directions:
        names = ("accuracy", *SCORES, *(f"micro_{name}" for name in SCORES))
        return {"loss": "min", **dict.fromkeys(names, "max")}

    def report(self, outputs: Outputs) -> JsonObject:
        return {"classes": class_report(_scores(*self._labelled(outputs), None), self.labels)}

    def predictions(self, outputs: Outputs) -> list[JsonObject]:
        """Return for each sample the labels with a probability above 0.5, and the probability of each label."""
        by_label = [dict(zip(self.labels, row.tolist(), strict=True)) for row in _probabilities(outputs)]
        return [
            {
                "labels": [label for label, p in one.items() if p > 0.5],
                "probabilities": {label: _labels.rounded(p) for label, p in one.items()},
            }
            for one in by_label
        ]

    def top_predictions(self, outputs: Outputs, count: int) -> list[list[JsonObject]]:
        return _labels.top_predictions(_probabilities(outputs), self.labels, count)

    def text(self, target: Array) -> str:
        return ", ".join(self.labels[n] for n in np.flatnonzero(target == 1).tolist()) or "none"

    def _labelled(self, outputs: Outputs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the true and the predicted labels of the samples with a target, each of shape (samples, classes)."""
        shape = -1, self.output_size
        truth = np.array(outputs["label"], dtype=np.int64).reshape(shape)
        predicted = np.array([logits > 0 for logits in outputs["logits"]], dtype=np.int64).reshape(shape)
        known = truth[:, 0] != IGNORE
        return truth[known], predicted[known]


def _probabilities(outputs: Outputs) -> NDArray[np.float64]:
    """Return the probability of each label, shape (samples, classes)."""
    logits = np.stack(outputs["logits"]).astype(np.float64)
    return np.asarray(1 / (1 + np.exp(-logits)))


def _scores(truth: NDArray[np.int64], predicted: NDArray[np.int64], average: str | None) -> dict[str, Array]:
    """Return scores of each class, or their average; 0 for a score that is not defined. average: None, or as in
    scikit-learn."""
    from sklearn.metrics import precision_recall_fscore_support

    if not len(truth):
        return dict.fromkeys(SCORES_AND_SUPPORT, np.zeros(() if average else truth.shape[1]))
    scores = precision_recall_fscore_support(truth, predicted, average=average, zero_division=0.0)
    return dict(zip(SCORES_AND_SUPPORT, scores, strict=True))


def _cross_entropies(logits: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
    """Return the binary cross entropy of each sample, summed over the classes; 0 without a target."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    known = labels[:, 0] != IGNORE
    truth = torch.where(known[:, None], labels, 0).to(logits.dtype)
    losses = binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(1)
    return torch.where(known, losses, 0.0)
