"""What tasks share that choose one of several classes, or any of them, for each sample."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from launcher.config.errors import Problem, UserError
from launcher.config.types import hint
from launcher.tasks import IGNORE, Batch, Directions, Outputs, Sample, _outputs

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts


def survey(found: set[str]) -> list[str]:
    """The label names, sorted: numbers by value, texts by letters. Raises UserError for fewer than two."""
    numbers = all(re.fullmatch(r"-?\d+", label) for label in found)
    if len(found) < 2:
        what = f"{len(found)} label in the training data: a classifier needs two or more"
        raise UserError(Problem("data.train.label", what))
    return sorted(found, key=lambda label: (int(label) if numbers else 0, label))


def numbered(batch: pa.RecordBatch, labels: Sequence[str], key: str) -> pa.Array:
    """The number of each row's label, int64; IGNORE where rows come without. Raises UserError for an unknown one."""
    if "label" not in batch.schema.names:
        return pa.array(np.full(batch.num_rows, IGNORE, dtype=np.int64))
    numbers = pc.index_in(batch.column("label"), pa.array(labels, pa.string()))
    if numbers.null_count:
        first = pc.min(batch.column("label").filter(numbers.is_null())).as_py()
        what = f"{first!r} stands in the validation data and not in the training data ({hint(first, labels)})"
        raise UserError(Problem(f"{key}.label", what))
    return numbers.cast(pa.int64())


class Classes:
    """One class a sample: `labels` of a sample holds its number. A task gives `logits(model, batch)`, of shape
    (samples, classes)."""

    config: Any
    facts: "Facts"

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        raise NotImplementedError

    @staticmethod
    def survey(config: Any, values: Mapping[str, set[str]]) -> dict[str, Any]:
        return {"labels": survey(values["label"])}

    @staticmethod
    def baseline(config: Any, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        """The accuracy of always naming the most frequent class."""
        counts = np.zeros(0, dtype=np.int64)
        for table in validation:
            more = np.bincount(table["label"].to_numpy(), minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
        return {"majority_class": float(counts.max() / counts.sum())}

    def options(self) -> dict[str, Any]:
        labels = self.facts.labels
        return {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
        }

    def outputs(self, length: int) -> float:
        return float(len(self.facts.labels))

    def weight(self, sample: Sample) -> float:
        return float(sample["labels"][0] != IGNORE)

    def mute(self, sample: Sample) -> Sample:
        return {**sample, "labels": np.full_like(sample["labels"], IGNORE)}

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, float]":
        from torch.nn.functional import cross_entropy

        labels = batch["labels"]
        loss = cross_entropy(self.logits(model, batch), labels, ignore_index=IGNORE, reduction="sum")
        return loss, float((labels != IGNORE).sum())

    def predict(self, model: "torch.nn.Module", batch: Batch) -> dict[str, Any]:
        from torch.nn.functional import cross_entropy

        labels, logits = batch["labels"], self.logits(model, batch)
        loss = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
        return {"loss": loss, "weight": (labels != IGNORE).double(), "label": labels, "logits": logits}

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        truth, found = _choices(outputs)
        out = {"loss": _outputs.mean_loss(outputs), "accuracy": float(np.mean(truth == found)) if len(truth) else 0.0}
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

    def told(self, outputs: Outputs, tokenizer: Any) -> list[dict[str, Any]]:
        """The most probable class and its probability."""
        logits = np.stack(outputs["logits"]).astype(np.float64)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        best = shares.argmax(1)
        return [{"label": self.facts.labels[n], "probability": float(p[n])} for n, p in zip(best, shares, strict=True)]


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
