"""Sequence classification: one label for a text or for a pair of texts, or any number of labels."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import model_validator
from pydantic_core import PydanticCustomError

from launcher.config.columns import Column
from launcher.contract import random
from launcher.tasks import Batch, Features, Row, Sample, _multi_label, _single_label, _text_inputs

if TYPE_CHECKING:
    from launcher.plan.facts import Facts
    from launcher.prepare.encode import Encoder


class Config(_single_label.SingleLabelConfig):
    """One label, or any number of labels, for each text."""

    kind: Literal["sequence_classification"] = "sequence_classification"
    labels: Literal["single", "multi"] = "single"
    """`single`: a row has one label; `multi`: a row has a list of any number of labels."""

    @property
    def multi_label(self) -> bool:
        return self.labels == "multi"

    @model_validator(mode="after")
    def _of_single_labels(self) -> "Config":
        if self.labels == "multi" and (self.class_weights is not None or self.label_smoothing):
            told = "class_weights and label_smoothing are for labels: single"
            raise PydanticCustomError("labels", told)
        return self


class Task(_text_inputs.TextInputs, _single_label.SingleLabel):
    """That of single labels; made for several, it is one of those."""

    surveyed = ("label",)

    def __new__(cls, config: Config, facts: "Facts") -> "Task":
        return super().__new__(_Several if config.labels == "multi" else cls)

    @staticmethod
    def required_columns(config: Config) -> tuple[str, ...]:
        return ("text", "text_pair", Column("label", "names") if config.labels == "multi" else "label")

    @staticmethod
    def prepared(config: Config) -> dict[str, Any]:
        return {"features": "sequence_classification", "labels": config.labels}

    @staticmethod
    def features(
        config: Config,
        rows: Iterable[pa.RecordBatch],
        survey: dict[str, Any],
        encoder: "Encoder",
        length: int,
        key: str,
    ) -> Iterator[Features]:
        numbered = _multi_label.numbered if config.labels == "multi" else _single_label.numbered
        for batch in rows:
            yield _text_inputs.features(batch, encoder, length, {"label": numbered(batch, survey["labels"], key)})

    @staticmethod
    def counts(config: Config, training: Iterable[pa.Table], classes: int) -> list[int]:
        return _kind(config).counts(config, training, classes)

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        return _kind(config).baseline(config, validation, special_ids)

    def show(self, sample: Sample, tokenizer: Any) -> str:
        return self._shown(sample, tokenizer, self.facts.labels[int(sample["labels"][0])])


class _Several(_multi_label.MultiLabel, Task):
    def samples(
        self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: random.Draw
    ) -> list[Sample]:
        made = super().samples(rows, epochs, ids, draw)
        return [{**sample, "labels": self.marked(sample["labels"])} for sample in made]

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return {**super().collate(samples), "labels": np.stack([sample["labels"] for sample in samples])}

    def show(self, sample: Sample, tokenizer: Any) -> str:
        names = [self.facts.labels[n] for n in np.flatnonzero(sample["labels"] == 1)]
        return self._shown(sample, tokenizer, ", ".join(names) or "none")


def _kind(config: Config) -> type[_single_label.SingleLabel]:
    return _multi_label.MultiLabel if config.labels == "multi" else _single_label.SingleLabel
