"""Targets of one class for each sample: configuration, preparation and head."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from launcher.config.base_model import hint
from launcher.config.errors import Problem, UserError
from launcher.config.types import TaskConfig
from launcher.plan.facts import label_counts
from launcher.tasks import IGNORE, Array, Directions, JsonObject, Outputs, _labels, _metrics
from launcher.tasks._target_kinds import TargetKind

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts

SCORES = ("precision", "recall", "f1")
_CONFUSIONS, _EXAMPLES = 20, 3
"""Maximum number of pairs of classes with examples, and of examples of each."""
SCORES_AND_SUPPORT = (*SCORES, "support")


def _names_as_text(value: object) -> object:
    """Convert labels that YAML reads as numbers into text."""
    return {str(name): weight for name, weight in value.items()} if isinstance(value, dict) else value


Weights = Annotated[dict[str, Annotated[float, Field(ge=0)]] | Literal["balanced"], BeforeValidator(_names_as_text)]


class SingleLabelConfig(TaskConfig):
    """Keys of the tasks with one label for each sample. Both apply to training and evaluation."""

    class_weights: Weights | None = None
    """Weight of each class in the loss (default 1), as in torch's cross_entropy. `balanced`: weights that give every
    class the same total."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target distribution that is spread evenly over all classes (Szegedy et al., 2016)."""


def survey(values: Mapping[str, set[str]]) -> list[str]:
    """Return the label names in their order. Raises UserError (see `_labels.check`)."""
    _labels.check(values["label"], "data.train.label")
    return _labels.in_order(values["label"])


def numbers(batch: pa.RecordBatch, labels: Sequence[str], key: str) -> pa.Array:
    """Return the label number of each row, int64; IGNORE if there is no column `label`. Raises UserError for an unknown
    label."""
    if "label" not in batch.schema.names:
        return pa.array(np.full(batch.num_rows, IGNORE, dtype=np.int64))
    return _labels.indices(batch.column("label"), labels, f"{key}.label")


def count_labels(columns: Iterable[pa.ChunkedArray], classes: int) -> list[int]:
    """Return the number of samples of each class. columns: label numbers."""
    total = np.zeros(classes, np.int64)
    for column in columns:
        labels = column.to_numpy()
        total += np.bincount(labels[labels != IGNORE], minlength=classes)
    counts: list[int] = total.tolist()
    return counts


def baseline(validation: Iterable[pa.Table]) -> dict[str, float]:
    """Return the accuracy of always predicting the most frequent class."""
    counts = Counter[int]()
    for table in validation:
        counts.update(table["label"].to_pylist())
    return {"majority_class": max(counts.values()) / counts.total()}


def check(config: SingleLabelConfig, facts: "Facts", folder: Path) -> None:
    """Check the prepared labels and the names in `class_weights`. Raises UserError."""
    _labels.check_prepared(facts.labels, "data.train.label", folder)
    weights = config.class_weights if isinstance(config.class_weights, dict) else {}
    unknown = [name for name in weights if name not in facts.labels]
    if unknown:
        raise UserError(
            [Problem(f"task.class_weights.{n}", f"no such label ({hint(n, facts.labels)})") for n in unknown]
        )


def describe_labels(facts: "Facts") -> str:
    """Return the number of training samples of each label as one line."""
    return f"{label_counts(facts)} (training samples)" if facts.counts else ""


class SingleLabelTarget(TargetKind):
    """One class. A target is the number of the sample's class, or IGNORE, shape (1,)."""

    def __init__(self, config: SingleLabelConfig, facts: "Facts"):
        self.config, self.facts, self.output_size = config, facts, len(facts.labels)
        self._on_devices = dict[object, "torch.Tensor"]()

    def model_options(self) -> JsonObject:
        return {**_labels.model_options(self.facts.labels), "problem_type": "single_label_classification"}

    def weight(self, target: Array) -> float:
        label = int(target[0])
        return 0.0 if label == IGNORE else float(self._class_weights[label])

    def zero_weight(self, target: Array) -> Array:
        return np.full_like(target, IGNORE)

    @cached_property
    def _class_weights(self) -> NDArray[np.float64]:
        weights, labels = self.config.class_weights, self.facts.labels
        if weights == "balanced":
            counts = np.array(self.facts.counts, dtype=np.float64)
            balanced: NDArray[np.float64] = counts.sum() / (len(counts) * np.maximum(counts, 1.0))
            return balanced
        return np.array([(weights or {}).get(label, 1.0) for label in labels])

    def _weights(self, labels: "torch.Tensor") -> "torch.Tensor":
        """Return the weight of each sample, fp64."""
        import torch

        weights = self._weights_on(labels.device, torch.float64)
        return torch.where(labels == IGNORE, 0.0, weights[labels.clamp(min=0)])

    def _weights_on(self, device: "torch.device", dtype: "torch.dtype") -> "torch.Tensor":
        """Return the weight of each class, copied to a device only once."""
        import torch

        if (device, dtype) not in self._on_devices:
            self._on_devices[device, dtype] = torch.as_tensor(self._class_weights, dtype=dtype, device=device)
        return self._on_devices[device, dtype]

    def _cross_entropy(self, logits: "torch.Tensor", labels: "torch.Tensor", reduction: str) -> "torch.Tensor":
        from torch.nn.functional import cross_entropy

        given = self.config.class_weights is not None
        weight = self._weights_on(logits.device, logits.dtype) if given else None
        smoothing = self.config.label_smoothing
        return cross_entropy(
            logits, labels, weight, ignore_index=IGNORE, label_smoothing=smoothing, reduction=reduction
        )

    def loss(self, logits: "torch.Tensor", labels: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        return self._cross_entropy(logits, labels, "sum"), self._weights(labels).sum()

    def predict(self, logits: "torch.Tensor", labels: "torch.Tensor") -> "dict[str, torch.Tensor]":
        loss = self._cross_entropy(logits, labels, "none")
        return {"loss": loss, "weight": self._weights(labels), "label": labels, "logits": logits}

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """Return the accuracy, and the precision, recall and F1 of each class with their means over classes."""
        truth, predicted = _labelled(outputs)
        metrics = {
            "loss": _metrics.mean_loss(outputs),
            "accuracy": float(np.mean(truth == predicted)) if len(truth) else 0.0,
        }
        scores = _class_scores(truth, predicted, self.output_size)
        seen = np.union1d(truth, predicted)  # a class that neither occurs nor is predicted does not lower the means
        metrics |= {name: float(scores[name][seen].mean()) if len(seen) else 0.0 for name in SCORES}
        return metrics | by_class(scores, self.facts.labels)

    def directions(self) -> Directions:
        return {"loss": "min", "accuracy": "max", "precision": "max", "recall": "max", "f1": "max"}

    def report(self, outputs: Outputs) -> JsonObject:
        from sklearn.metrics import confusion_matrix

        truth, predicted = _labelled(outputs)
        labels = self.facts.labels
        classes = class_report(_class_scores(truth, predicted, len(labels)), labels)
        confusion = np.zeros((0, 0))
        if len(truth):
            confusion = confusion_matrix(truth, predicted, labels=range(len(labels)))
        examples = confused(outputs, confusion, labels)
        return {"classes": classes, "confusion": confusion.tolist(), "labels": labels, "examples": examples}

    def predictions(self, outputs: Outputs) -> list[JsonObject]:
        """Return the most probable class of each sample with its probability."""
        return [best for (best,) in self.top_predictions(outputs, 1)]

    def top_predictions(self, outputs: Outputs, count: int) -> list[list[JsonObject]]:
        logits = np.stack(outputs["logits"]).astype(np.float64)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return _labels.top_predictions(shares / shares.sum(1, keepdims=True), self.facts.labels, count)

    def text(self, target: Array) -> str:
        return self.facts.labels[int(target[0])]


def by_class(scores: Mapping[str, Array], labels: Sequence[str]) -> dict[str, float]:
    """Return precision, recall and F1 of each class by name, such as `f1/cat`. scores: arrays of shape (classes,)."""
    return {
        f"{name}/{label}": float(value) for name in SCORES for label, value in zip(labels, scores[name], strict=True)
    }


def confused(outputs: Outputs, confusion: Array, labels: Sequence[str]) -> list[JsonObject]:
    """Return samples of the most frequent confusions, of each those with the most probable wrong class. `sample`: its
    number among the evaluated samples."""
    truth = np.array(outputs["label"], dtype=np.int64)
    logits = np.stack(outputs["logits"]).astype(np.float64) if len(truth) else np.zeros((0, len(labels)))
    shares = np.exp(logits - logits.max(1, keepdims=True, initial=-np.inf))
    shares /= shares.sum(1, keepdims=True)
    predicted = shares.argmax(1)
    found = list[JsonObject]()
    for row, column in _metrics.confusions(confusion)[:_CONFUSIONS]:
        of_pair = np.flatnonzero((truth == row) & (predicted == column))
        for n in of_pair[np.argsort(-shares[of_pair, column], kind="stable")][:_EXAMPLES].tolist():
            names = {"truth": labels[row], "predicted": labels[column]}
            found.append({"sample": n, **names, "probability": round(float(shares[n, column]), 4)})
    return found


def class_report(scores: Mapping[str, Array], labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return precision, recall, F1 and support by label."""
    return {label: {name: float(scores[name][n]) for name in SCORES_AND_SUPPORT} for n, label in enumerate(labels)}


def _labelled(outputs: Outputs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the true and the predicted classes of the samples with a label."""
    truth = np.array(outputs["label"], dtype=np.int64)
    predicted = np.array([logits.argmax() for logits in outputs["logits"]], dtype=np.int64)
    return truth[truth != IGNORE], predicted[truth != IGNORE]


def _class_scores(truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> dict[str, Array]:
    """Return arrays of shape (classes,) by score; 0 for a score that is not defined."""
    from sklearn.metrics import precision_recall_fscore_support

    if not len(truth):
        return dict.fromkeys(SCORES_AND_SUPPORT, np.zeros(classes))
    scores = precision_recall_fscore_support(truth, predicted, labels=range(classes), zero_division=0.0)
    return dict(zip(SCORES_AND_SUPPORT, map(np.asarray, scores), strict=True))
