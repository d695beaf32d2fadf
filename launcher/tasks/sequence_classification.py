"""Sequence classification: one label, or any number of labels, for a text or a pair of texts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from pydantic import model_validator
from pydantic_core import PydanticCustomError

from launcher.config.requested_columns import Column
from launcher.tasks import (
    FeatureContext,
    Features,
    JsonObject,
    _multi_label,
    _single_label,
    _target_kinds,
    _token_batches,
)

if TYPE_CHECKING:
    from launcher.plan.facts import Facts


class Config(_single_label.SingleLabelConfig):
    """One label, or any number of labels, for each text."""

    kind: Literal["sequence_classification"] = "sequence_classification"
    labels: Literal["single", "multi"] = "single"
    """`single`: a row has one label; `multi`: a row has a list of any number of labels."""

    @property
    def multi_label(self) -> bool:
        return self.labels == "multi"

    @model_validator(mode="after")
    def _check_single_label_keys(self) -> "Config":
        if self.multi_label and (self.class_weights is not None or self.label_smoothing):
            raise PydanticCustomError("labels", "class_weights and label_smoothing are for labels: single")
        return self


class Task(_target_kinds.SingleTargetTask[Config]):
    columns = ("text", "text_pair", "label")
    survey_columns = ("label",)
    auto_class = "AutoModelForSequenceClassification"
    padding_free = True
    distillable = True
    has_top_predictions = True

    @classmethod
    def required_columns(cls, config: Config) -> tuple[str, ...]:
        return ("text", "text_pair", Column("label", "names") if config.multi_label else "label")

    @staticmethod
    def preparation_key(config: Config) -> JsonObject:
        return {"features": "sequence_classification", "labels": config.labels}

    @staticmethod
    def survey(config: Config, values: Mapping[str, set[str]]) -> JsonObject:
        return {"labels": _single_label.survey(values)}

    @staticmethod
    def features(config: Config, rows: Iterable[pa.RecordBatch], context: FeatureContext) -> Iterator[Features]:
        numbers = _multi_label.numbers if config.multi_label else _single_label.numbers
        for batch in rows:
            labels = numbers(batch, context.survey["labels"], context.key)
            yield _token_batches.text_features(batch, context, labels)

    @staticmethod
    def count_labels(config: Config, training: Iterable[pa.Table], classes: int) -> list[int]:
        if config.multi_label:
            return _multi_label.count_labels(training, classes)
        return _single_label.count_labels((table["label"] for table in training), classes)

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        return _multi_label.baseline(validation) if config.multi_label else _single_label.baseline(validation)

    @staticmethod
    def describe_labels(config: Config, facts: "Facts") -> str:
        return _single_label.describe_labels(facts)

    @staticmethod
    def check(config: Config, facts: "Facts", folder: Path) -> None:
        _single_label.check(config, facts, folder)

    def __init__(self, config: Config, facts: "Facts"):
        super().__init__(config, facts)
        self.target_kind = (
            _multi_label.MultiLabelTarget(facts.labels)
            if config.multi_label
            else _single_label.SingleLabelTarget(config, facts)
        )
