"""Tabular regression: a number for a list of numbers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from launcher.config.columns import Column
from launcher.config.errors import Problem, UserError
from launcher.config.types import TaskConfig
from launcher.contract.random import Draw
from launcher.tasks import Features, Row, Sample, _array_samples, _regression_targets

if TYPE_CHECKING:
    from launcher.prepare.encode import Encoder


class Config(TaskConfig):
    """A number for each row of features."""

    kind: Literal["tabular_regression"] = "tabular_regression"


class Task(_array_samples.ArraySamples, _regression_targets.RegressionTargets):
    columns = ("features", Column("label", "number"))
    surveyed = ("features",)
    auto_class = ""
    given = "features"

    @staticmethod
    def prepared(config: Config) -> dict[str, Any]:
        return {"features": "tabular_regression"}

    @staticmethod
    def shape(config: Config) -> tuple[int, ...]:
        return (1,)

    @staticmethod
    def survey(config: Config, values: Mapping[str, set[str]]) -> dict[str, Any]:
        counts = sorted(map(int, values["features"]))
        if not counts:
            raise UserError(
                Problem("data.train", "there is no row in it (is the path, the column or the split right?)")
            )
        if len(counts) > 1:
            what = f"rows of {counts[0]} and of {counts[1]} numbers in the training data: all need as many"
            raise UserError(Problem("data.train.features", what))
        return {"shape": counts}

    @staticmethod
    def features(
        config: Config,
        rows: Iterable[pa.RecordBatch],
        survey: dict[str, Any],
        encoder: "Encoder | None",
        length: int,
        key: str,
    ) -> Iterator[Features]:
        (count,) = survey["shape"]
        for batch in rows:
            column = batch.column("features")
            if other := set(column.value_lengths().to_pylist()) - {count}:
                what = f"a row of {min(other)} numbers, those of the training data have {count}"
                raise UserError(Problem(f"{key}.features", what))
            values = column.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False).reshape(-1, count)
            yield _array_samples.features("features", values, _regression_targets.numbers(batch))

    def samples(self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: Draw) -> list[Sample]:
        return [
            {"features": row["features"].astype(np.float32), "labels": np.array([row["label"]], np.float64)}
            for row in rows
        ]

    def show(self, sample: Sample, tokenizer: Any) -> str:
        numbers = " ".join(f"{value:g}" for value in sample["features"])
        return f"{numbers} → [bold reverse]{sample['labels'][0]:g}[/]"
