"""What tasks share that give a number for each sample."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.tasks import Batch, Directions, Outputs, Sample, Task, _exact_sums

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts


def numbers(batch: pa.RecordBatch) -> pa.Array:
    """The number of each row, float64; NaN where rows come without."""
    if "label" not in batch.schema.names:
        return pa.array(np.full(batch.num_rows, np.nan))
    return batch.column("label").cast(pa.float64())


class RegressionTargets(Task):
    """`labels` of a sample holds its number, float64: NaN has no weight. A task gives `logits(model, batch)`, of shape
    (samples, 1)."""

    config: Any
    facts: "Facts"

    @staticmethod
    def baseline(config: Any, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        """The mean squared error of always naming the mean."""
        labels = np.concatenate([table["label"].to_numpy() for table in validation])
        labels = labels[~np.isnan(labels)]
        return {"mse_of_the_mean": float(labels.var()) if len(labels) else 0.0}

    def options(self) -> dict[str, Any]:
        names = {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}}  # as transformers names a number
        return {"num_labels": 1, **names, "problem_type": "regression"}

    def outputs(self, length: int) -> float:
        return 1.0

    def weight(self, sample: Sample) -> float:
        return float(not np.isnan(sample["labels"][0]))

    def zero_weight(self, sample: Sample) -> Sample:
        return {**sample, "labels": np.full_like(sample["labels"], np.nan)}

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, float]":
        """The sum of squared errors."""
        errors = _squared(self.logits(model, batch)[:, 0], batch["labels"])
        return errors.sum(), float((~batch["labels"].isnan()).sum())

    def predict(self, model: "torch.nn.Module", batch: Batch) -> dict[str, Any]:
        values, labels = self.logits(model, batch)[:, 0], batch["labels"]
        return {
            "loss": _squared(values, labels),
            "weight": (~labels.isnan()).double(),
            "label": labels.double(),
            "value": values.double(),
        }

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """In fp64; 0 where one is not defined (no two samples, or all of them the same), and not a number where the
        model's are none."""
        from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

        truth, found = _pairs(outputs)
        loss = _exact_sums.mean_loss(outputs)
        if not len(truth) or not np.isfinite(found).all():
            return {"loss": loss} | dict.fromkeys(("mse", "mae", "r2", "pearson"), float("nan") if len(truth) else 0.0)
        return {
            "loss": loss,
            "mse": float(mean_squared_error(truth, found)),
            "mae": float(mean_absolute_error(truth, found)),
            "r2": float(r2_score(truth, found)) if np.ptp(truth) else 0.0,
            "pearson": _pearson(truth, found),
        }

    def directions(self) -> Directions:
        return {"loss": "min", "mse": "min", "mae": "min", "r2": "max", "pearson": "max"}

    def predictions(self, outputs: Outputs, tokenizer: Any) -> list[dict[str, Any]]:
        return [{"value": value} for value in outputs["value"]]


def _squared(values: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
    """The squared error of each sample, 0 without a label: taken out before it is squared, or the gradient would be
    none either."""
    import torch

    return torch.where(labels.isnan(), 0.0, values - labels.to(values.dtype)).square()


def _pairs(outputs: Outputs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """True and found numbers of the samples that have one."""
    truth, found = (np.array(outputs[name], dtype=np.float64) for name in ("label", "value"))
    return truth[~np.isnan(truth)], found[~np.isnan(truth)]


def _pearson(truth: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    from scipy.stats import pearsonr

    return float(pearsonr(truth, found).statistic) if np.ptp(truth) and np.ptp(found) else 0.0
