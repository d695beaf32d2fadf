"""Targets of one number for each sample: preparation and head."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.tasks import Array, Directions, JsonObject, Outputs, _metrics
from launcher.tasks._target_kinds import TargetKind

if TYPE_CHECKING:
    import torch


def numbers(batch: pa.RecordBatch) -> pa.Array:
    """Return the number of each row, float64; NaN if there is no column `label`."""
    if "label" not in batch.schema.names:
        return pa.array(np.full(batch.num_rows, np.nan))
    return batch.column("label").cast(pa.float64())


def baseline(validation: Iterable[pa.Table]) -> dict[str, float]:
    """Return the mean squared error of always predicting the mean."""
    labels = np.concatenate([table["label"].to_numpy() for table in validation])
    labels = labels[~np.isnan(labels)]
    return {"mse_of_the_mean": float(labels.var()) if len(labels) else 0.0}


class RegressionTarget(TargetKind):
    """One number. A target is the sample's number, float64, shape (1,); NaN has no weight."""

    output_size = 1

    def model_options(self) -> JsonObject:
        names = {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}}  # transformers' name of a single output
        return {"num_labels": 1, **names, "problem_type": "regression"}

    def weight(self, target: Array) -> float:
        return float(not np.isnan(target[0]))

    def zero_weight(self, target: Array) -> Array:
        return np.full_like(target, np.nan)

    def loss(self, logits: "torch.Tensor", labels: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        """Return the sum of squared errors and the number of labels."""
        return _squared_errors(logits[:, 0], labels).sum(), (~labels.isnan()).sum()

    def predict(self, logits: "torch.Tensor", labels: "torch.Tensor") -> "dict[str, torch.Tensor]":
        values = logits[:, 0]
        return {
            "loss": _squared_errors(values, labels),
            "weight": (~labels.isnan()).double(),
            "label": labels.double(),
            "value": values.double(),
        }

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """Return the metrics in fp64. An undefined metric (fewer than two samples, or only equal ones) is 0. All are
        NaN if an output of the model is not finite."""
        from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

        truth, predicted = _labelled(outputs)
        loss = _metrics.mean_loss(outputs)
        if not len(truth) or not np.isfinite(predicted).all():
            undefined = float("nan") if len(truth) else 0.0
            return {"loss": loss} | dict.fromkeys(("mse", "mae", "r2", "pearson"), undefined)
        return {
            "loss": loss,
            "mse": float(mean_squared_error(truth, predicted)),
            "mae": float(mean_absolute_error(truth, predicted)),
            "r2": float(r2_score(truth, predicted)) if np.ptp(truth) else 0.0,
            "pearson": _metrics.pearson(truth, predicted),
        }

    def directions(self) -> Directions:
        return {"loss": "min", "mse": "min", "mae": "min", "r2": "max", "pearson": "max"}

    def predictions(self, outputs: Outputs) -> list[JsonObject]:
        return [{"value": value} for value in outputs["value"]]

    def text(self, target: Array) -> str:
        return f"{target[0]:g}"


def _squared_errors(values: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
    """Return the squared error of each sample, 0 without a label."""
    import torch

    errors = torch.where(labels.isnan(), 0.0, values - labels.to(values.dtype))  # NaN here would make the gradient NaN
    return errors.square()


def _labelled(outputs: Outputs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return true and predicted numbers of the samples with a label."""
    truth, predicted = (np.array(outputs[name], dtype=np.float64) for name in ("label", "value"))
    return truth[~np.isnan(truth)], predicted[~np.isnan(truth)]
