"""What differs from one class a sample where there may be any number of them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.config.errors import Problem, UserError
from launcher.tasks import IGNORE, Batch, Directions, Outputs, Sample, _exact_sums, _single_label

if TYPE_CHECKING:
    import torch

_SCORES = ("precision", "recall", "f1")


def numbered(batch: pa.RecordBatch, labels: Sequence[str], key: str) -> pa.Array:
    """The numbers of each row's labels, lists of int64; of IGNORE alone where rows come without. Raises UserError for
    an unknown one."""
    if "label" not in batch.schema.names:
        return pa.array([[IGNORE]] * batch.num_rows, pa.list_(pa.int64()))
    names = batch.column("label")
    return pa.ListArray.from_arrays(names.offsets, _single_label.indices(names.values, labels, f"{key}.label"))


class MultiLabel(_single_label.SingleLabel):
    """`labels` of a sample: 1 for each class that it has and 0 for the others, shape (classes,); IGNORE for all has no
    weight."""

    @staticmethod
    def counts(config: Any, training: Iterable[pa.Table], classes: int) -> list[int]:
        """Raises UserError where every sample has every label: then there is nothing to learn."""
        rows = 0

        def flat() -> Iterator[pa.Table]:
            nonlocal rows
            for table in training:
                rows += table.num_rows
                yield pa.table({"label": table["label"].combine_chunks().flatten()})

        counts = _single_label.SingleLabel.counts(config, flat(), classes)
        if min(counts) >= rows > 1:
            hint = "(lists of 0 and 1, one for each class, are read as labels 0 and 1: list the classes of the row)"
            raise UserError(Problem("data.train.label", f"every row has all {classes} labels {hint}"))
        return counts

    @staticmethod
    def baseline(config: Any, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        """The accuracy of always naming the most frequent set of labels."""
        counts = Counter(frozenset(labels) for table in validation for labels in table["label"].to_pylist())
        return {"majority_set": max(counts.values()) / counts.total()}

    def marked(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        marked = np.zeros(len(self.facts.labels), dtype=np.int64)
        if IGNORE in numbers:
            return np.full_like(marked, IGNORE)
        marked[numbers.astype(np.int64)] = 1
        return marked

    def options(self) -> dict[str, Any]:
        return {**super().options(), "problem_type": "multi_label_classification"}

    def weight(self, sample: Sample) -> float:
        return float(sample["labels"][0] != IGNORE)

    def loss_of(self, logits: "torch.Tensor", batch: Batch) -> "tuple[torch.Tensor, float]":
        labels = batch["labels"]
        return _entropies(logits, labels).sum(), float((labels[:, 0] != IGNORE).sum())

    def predict(self, model: "torch.nn.Module", batch: Batch) -> dict[str, Any]:
        labels, logits = batch["labels"], self.logits(model, batch)
        weight = (labels[:, 0] != IGNORE).double()
        return {"loss": _entropies(logits, labels), "weight": weight, "label": labels, "logits": logits}

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """Means over the classes; `micro_` counts over all of them. `accuracy`: samples with no label wrong."""
        truth, found = self._choices(outputs)
        each = self._scores(truth, found, None)
        right = (truth == found).all(1)
        out = {"loss": _exact_sums.mean_loss(outputs), "accuracy": float(right.mean()) if len(truth) else 0.0}
        out |= {name: float(each[name].mean()) for name in _SCORES}
        micro = self._scores(truth, found, "micro")
        out |= {f"micro_{name}": float(micro[name]) for name in _SCORES}
        for name in _SCORES:
            out |= {f"{name}/{label}": float(v) for label, v in zip(self.facts.labels, each[name], strict=True)}
        return out

    def directions(self) -> Directions:
        names = ("accuracy", *_SCORES, *(f"micro_{name}" for name in _SCORES))
        return {"loss": "min", **dict.fromkeys(names, "max")}

    def report(self, outputs: Outputs) -> dict[str, Any]:
        each = self._scores(*self._choices(outputs), None)
        names = (*_SCORES, "support")
        return {"classes": {label: {k: float(each[k][n]) for k in names} for n, label in enumerate(self.facts.labels)}}

    def predictions(self, outputs: Outputs, tokenizer: Any) -> list[dict[str, Any]]:
        """The labels that are more probable than not, and the probability of each."""
        shares = self._probabilities(np.stack(outputs["logits"]).astype(np.float64))
        every = [dict(zip(self.facts.labels, row.tolist(), strict=True)) for row in shares]
        return [
            {
                "labels": [k for k, p in one.items() if p > 0.5],
                "probabilities": {k: float(f"{p:.6g}") for k, p in one.items()},
            }
            for one in every
        ]

    def _probabilities(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(1 / (1 + np.exp(-logits)))

    def _choices(self, outputs: Outputs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """True and found labels of the samples that have any truth, shape (samples, classes)."""
        shape = -1, len(self.facts.labels)
        truth = np.array(outputs["label"], dtype=np.int64).reshape(shape)
        found = np.array([logits > 0 for logits in outputs["logits"]], dtype=np.int64).reshape(shape)
        there = truth[:, 0] != IGNORE
        return truth[there], found[there]

    def _scores(self, truth: NDArray[np.int64], found: NDArray[np.int64], average: str | None) -> dict[str, Any]:
        """Of each class, or of their sums; 0 where a share is of nothing."""
        from sklearn.metrics import precision_recall_fscore_support

        names = (*_SCORES, "support")
        if not len(truth):
            return dict.fromkeys(names, 0.0 if average else np.zeros(truth.shape[1]))
        given: dict[str, Any] = {"average": average, "zero_division": 0.0}
        return dict(zip(names, precision_recall_fscore_support(truth, found, **given), strict=True))


def _entropies(logits: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
    """The binary cross entropies of each sample, summed over its classes; 0 without a label."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    there = labels[:, 0] != IGNORE
    truth = torch.where(there[:, None], labels, 0).to(logits.dtype)
    losses = binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(1)
    return torch.where(there, losses, 0.0)
