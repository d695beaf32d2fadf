"""Regression: a number for a text or a pair of texts."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import pyarrow as pa

from launcher.config.requested_columns import Column
from launcher.config.types import TaskConfig
from launcher.tasks import (
    FeatureContext,
    Features,
    JsonObject,
    _regression_targets,
    _target_kinds,
    _token_batches,
)


class Config(TaskConfig):
    """A number for each text."""

    kind: Literal["regression"] = "regression"


class Task(_target_kinds.SingleTargetTask[Config]):
    columns = ("text", "text_pair", Column("label", "number"))
    auto_class = "AutoModelForSequenceClassification"
    padding_free = True
    target_kind = _regression_targets.RegressionTarget()

    @staticmethod
    def preparation_key(config: Config) -> JsonObject:
        return {"features": "regression"}

    @staticmethod
    def features(config: Config, rows: Iterable[pa.RecordBatch], context: FeatureContext) -> Iterator[Features]:
        for batch in rows:
            yield _token_batches.text_features(batch, context, _regression_targets.numbers(batch))

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        return _regression_targets.baseline(validation)
