"""What tasks share that choose one of several classes for each sample."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from launcher.config.errors import Problem, UserError
from launcher.config.types import TaskConfig, hint
from launcher.plan.facts import label_counts
from launcher.tasks import IGNORE, Batch, Directions, Outputs, Sample, Task, _exact_sums, _label_checks

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts


def _by_name(value: Any) -> Any:
    """A label that is a number in YAML is its digits as a name."""
    return {str(name): weight for name, weight in value.items()} if isinstance(value, dict) else value


Weights = Annotated[dict[str, Annotated[float, Field(ge=0)]] | Literal["balanced"], BeforeValidator(_by_name)]


class SingleLabelConfig(TaskConfig):
    """Keys of the tasks with one label for each sample. Both apply to training and evaluation."""

    class_weights: Weights | None = None
    """Weight of each class in the loss (default 1), as in torch's cross_entropy. `balanced`: weights that give every
    class the same total."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target distribution that is spread evenly over all classes (Szegedy et al., 2016)."""


def survey(found: set[str]) -> list[str]:
    """The label names, sorted: numbers by value, texts by letters. Raises UserError for fewer than two."""
    numbers = all(re.fullmatch(r"-?\d+", label) for label in found)
    if len(found) < 2:
        what = f"{len(found)} label in the training data: a classifier needs two or more"
        raise UserError(Problem("data.train.label", what))
    _label_checks.check(found, "data.train.label")
    return sorted(found, key=lambda label: (int(label) if numbers else 0, label))


def numbered(batch: pa.RecordBatch, labels: Sequence[str], key: str) -> pa.Array:
    """The number of each row's label, int64; IGNORE where rows come without. Raises UserError for an unknown one."""
    if "label" not in batch.schema.names:
        return pa.array(np.full(batch.num_rows, IGNORE, dtype=np.int64))
    return indices(batch.column("label"), labels, f"{key}.label")


def indices(names: pa.Array, labels: Sequence[str], key: str) -> pa.Array:
    """The number of each name, int64; IGNORE for null. Raises UserError for an unknown one."""
    numbers = pc.index_in(names, pa.array(labels, names.type))
    unknown = pc.and_(numbers.is_null(), names.is_valid())
    if pc.any(unknown).as_py():
        first = pc.min(names.filter(unknown)).as_py()
        what = f"{first!r} stands in the validation data and not in the training data ({hint(first, labels)})"
        raise UserError(Problem(key, what))
    return numbers.cast(pa.int64()).fill_null(IGNORE)


def options(labels: Sequence[str]) -> dict[str, Any]:
    """What a model's configuration has to say of labels."""
    numbers = {label: number for number, label in enumerate(labels)}
    return {"num_labels": len(labels), "id2label": dict(enumerate(labels)), "label2id": numbers}


class SingleLabel(Task):
    """One class a sample: `labels` of a sample holds its number. A task gives `logits(model, batch)`, of shape
    (samples, classes); its configuration is a ClassesConfig."""

    config: Any
    facts: "Facts"
    distillable = True
    ranks_answers = True

    @staticmethod
    def survey(config: Any, values: Mapping[str, set[str]]) -> dict[str, Any]:
        return {"labels": survey(values["label"])}

    @staticmethod
    def counts(config: Any, training: Iterable[pa.Table], classes: int) -> list[int]:
        """How many samples each class has."""
        total = np.zeros(classes, np.int64)
        for table in training:
            total += _counts(table["label"], classes)
        counts: list[int] = total.tolist()
        return counts

    @staticmethod
    def baseline(config: Any, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        """The accuracy of always naming the most frequent class."""
        counts = Counter[int]()
        for table in validation:
            counts.update(table["label"].to_pylist())
        return {"majority_class": max(counts.values()) / counts.total()}

    @staticmethod
    def check(config: Any, facts: "Facts", folder: Path) -> None:
        """Raises UserError where labels are given weights that are none, and where a prepared label is none."""
        _label_checks.check_prepared(facts.labels, "data.train.label", folder)
        given = config.class_weights if isinstance(config.class_weights, dict) else {}
        unknown = [name for name in given if name not in facts.labels]
        key = "task.class_weights"
        if unknown:
            raise UserError([Problem(f"{key}.{n}", f"no such label ({hint(n, facts.labels)})") for n in unknown])

    @staticmethod
    def describe_labels(config: Any, facts: "Facts") -> str:
        return f"{label_counts(facts)} (training samples)" if facts.counts else ""

    def options(self) -> dict[str, Any]:
        return {**options(self.facts.labels), "problem_type": "single_label_classification"}

    def outputs(self, length: int) -> float:
        return float(len(self.facts.labels))

    def weight(self, sample: Sample) -> float:
        label = int(sample["labels"][0])
        return 0.0 if label == IGNORE else float(self._weights[label])

    def zero_weight(self, sample: Sample) -> Sample:
        return {**sample, "labels": np.full_like(sample["labels"], IGNORE)}

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        """What a sample of each class weighs."""
        given, labels = self.config.class_weights, self.facts.labels
        if given == "balanced":
            counts = np.array(self.facts.counts, dtype=np.float64)
            balanced: NDArray[np.float64] = counts.sum() / (len(counts) * np.maximum(counts, 1.0))
            return balanced
        return np.array([(given or {}).get(label, 1.0) for label in labels])

    def _weighed(self, labels: "torch.Tensor") -> "torch.Tensor":
        """What each of these samples weighs, fp64."""
        import torch

        weights = torch.as_tensor(self._weights, device=labels.device)
        return torch.where(labels == IGNORE, 0.0, weights[labels.clamp(min=0)])

    def _entropy(self, logits: "torch.Tensor", labels: "torch.Tensor", reduction: str) -> "torch.Tensor":
        import torch
        from torch.nn.functional import cross_entropy

        given: dict[str, Any] = {"label_smoothing": self.config.label_smoothing, "reduction": reduction}
        if self.config.class_weights is not None:
            given["weight"] = torch.as_tensor(self._weights, dtype=logits.dtype, device=logits.device)
        return cross_entropy(logits, labels, ignore_index=IGNORE, **given)

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, float]":
        return self.loss_of(self.logits(model, batch), batch)

    def loss_of(self, logits: "torch.Tensor", batch: Batch) -> "tuple[torch.Tensor, float]":
        labels = batch["labels"]
        return self._entropy(logits, labels, "sum"), float(self._weighed(labels).sum())

    def predict(self, model: "torch.nn.Module", batch: Batch) -> dict[str, Any]:
        labels, logits = batch["labels"], self.logits(model, batch)
        loss = self._entropy(logits, labels, "none")
        return {"loss": loss, "weight": self._weighed(labels), "label": labels, "logits": logits}

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        truth, found = _choices(outputs)
        out = {
            "loss": _exact_sums.mean_loss(outputs),
            "accuracy": float(np.mean(truth == found)) if len(truth) else 0.0,
        }
        each = _scores(truth, found, len(self.facts.labels))
        there = np.union1d(truth, found)  # a class that is neither there nor named does not lower the means
        out |= {n: float(each[n][there].mean()) if len(there) else 0.0 for n in ("precision", "recall", "f1")}
        for name in ("precision", "recall", "f1"):
            out |= {f"{name}/{label}": float(v) for label, v in zip(self.facts.labels, each[name], strict=True)}
        return out

    def directions(self) -> Directions:
        return {"loss": "min", "accuracy": "max", "precision": "max", "recall": "max", "f1": "max"}

    def report(self, outputs: Outputs) -> dict[str, Any]:
        from sklearn.metrics import confusion_matrix

        truth, found = _choices(outputs)
        each, labels = _scores(truth, found, len(self.facts.labels)), self.facts.labels
        counts = confusion_matrix(truth, found, labels=range(len(labels))) if len(truth) else np.zeros((0, 0))
        names = ("precision", "recall", "f1", "support")
        classes = {label: {name: float(each[name][n]) for name in names} for n, label in enumerate(labels)}
        return {"classes": classes, "confusion": counts.tolist(), "labels": labels}

    def predictions(self, outputs: Outputs, tokenizer: Any) -> list[dict[str, Any]]:
        """The most probable class and its probability."""
        return [dict(best) for (best,) in self.ranked(outputs, 1)]

    def ranked(self, outputs: Outputs, most: int) -> list[list[dict[str, Any]]]:
        """The most probable classes of each sample, `most` of them, with their probabilities."""
        shares = self._probabilities(np.stack(outputs["logits"]).astype(np.float64))
        order = np.argsort(-shares, axis=1, kind="stable")[:, :most]
        return [
            [{"label": self.facts.labels[n], "probability": float(f"{p[n]:.6g}")} for n in row]
            for row, p in zip(order, shares, strict=True)
        ]

    def _probabilities(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of each class, shape (samples, classes)."""
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(shares / shares.sum(1, keepdims=True))


def _counts(labels: pa.ChunkedArray, classes: int) -> NDArray[np.int64]:
    numbers = labels.to_numpy()
    return np.bincount(numbers[numbers != IGNORE], minlength=classes)


def _choices(outputs: Outputs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """True and found classes of the samples that have a label."""
    truth = np.array(outputs["label"], dtype=np.int64)
    found = np.array([logits.argmax() for logits in outputs["logits"]], dtype=np.int64)
    return truth[truth != IGNORE], found[truth != IGNORE]


def _scores(truth: NDArray[np.int64], found: NDArray[np.int64], classes: int) -> dict[str, NDArray[np.float64]]:
    """Of each class; 0 where a share is of nothing."""
    from sklearn.metrics import precision_recall_fscore_support

    if not len(truth):
        return dict.fromkeys(("precision", "recall", "f1", "support"), np.zeros(classes))
    given: dict[str, Any] = {"labels": range(classes), "zero_division": 0.0}
    values = precision_recall_fscore_support(truth, found, **given)
    return dict(zip(("precision", "recall", "f1", "support"), map(np.asarray, values), strict=True))
