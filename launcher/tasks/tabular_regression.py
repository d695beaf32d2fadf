"""Tabular regression: a number for a list of numbers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from launcher.config.errors import Problem, UserError
from launcher.config.requested_columns import Column
from launcher.config.types import TaskConfig
from launcher.contract.random import Draw
from launcher.tasks import (
    Batch,
    FeatureContext,
    Features,
    JsonObject,
    Row,
    Sample,
    _array_inputs,
    _regression_targets,
    _target_kinds,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class Config(TaskConfig):
    """A number for each row of features."""

    kind: Literal["tabular_regression"] = "tabular_regression"


class Task(_target_kinds.SingleTargetTask[Config]):
    columns = ("features", Column("label", "number"))
    survey_columns = ("features",)
    tokenized = False
    target_kind = _regression_targets.RegressionTarget()

    @staticmethod
    def preparation_key(config: Config) -> JsonObject:
        return {"features": "tabular_regression"}

    @staticmethod
    def sample_shape(config: Config) -> tuple[int, ...]:
        return (1,)

    @staticmethod
    def survey(config: Config, values: Mapping[str, set[str]]) -> JsonObject:
        counts = sorted(map(int, values["features"]))
        if not counts:
            what = "there is no row in it (is the path, the column or the split right?)"
            raise UserError(Problem("data.train", what))
        if len(counts) > 1:
            what = f"rows of {counts[0]} and of {counts[1]} numbers in the training data: all need as many"
            raise UserError(Problem("data.train.features", what))
        return {"shape": counts}

    @staticmethod
    def features(config: Config, rows: Iterable[pa.RecordBatch], context: FeatureContext) -> Iterator[Features]:
        (count,) = context.survey["shape"]
        for batch in rows:
            column = batch.column("features")
            if other := set(column.value_lengths().to_pylist()) - {count}:
                what = f"a row of {min(other)} numbers, those of the training data have {count}"
                raise UserError(Problem(f"{context.key}.features", what))
            values = column.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False).reshape(-1, count)
            yield _array_inputs.features("features", values, _regression_targets.numbers(batch))

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        return _regression_targets.baseline(validation)

    def samples(self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: Draw) -> list[Sample]:
        return [
            {"features": row["features"].astype(np.float32), "labels": self.target_kind.target(float(row["label"]))}
            for row in rows
        ]

    def collate(self, samples: Sequence[Sample]) -> Batch:
        labels = self.target_kind.collate([sample["labels"] for sample in samples])
        return {**_array_inputs.inputs("features", [sample["features"] for sample in samples]), "labels": labels}

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        """Return logits of shape (samples, 1)."""
        return _array_inputs.logits(model, batch)

    def render(self, sample: Sample, tokenizer: "PreTrainedTokenizerBase") -> str:
        return " ".join(f"{value:g}" for value in sample["features"]) + self.target_kind.markup(sample["labels"])
