"""Sequence classification: one label for a text, or for a pair of texts."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from launcher.tasks import Features, Sample, _classes, _text_inputs

if TYPE_CHECKING:
    from launcher.prepare.encode import Encoder


class Config(_classes.ClassesConfig):
    kind: Literal["sequence_classification"] = "sequence_classification"


class Task(_text_inputs.TextInputs, _classes.Classes):
    surveyed = ("label",)

    @staticmethod
    def prepared(config: Config) -> dict[str, Any]:
        return {"features": "sequence_classification"}

    @staticmethod
    def features(
        config: Config,
        rows: Iterable[pa.RecordBatch],
        survey: dict[str, Any],
        encoder: "Encoder",
        length: int,
        key: str,
    ) -> Iterator[Features]:
        for batch in rows:
            label = _classes.numbered(batch, survey["labels"], key)
            yield _text_inputs.features(batch, encoder, length, {"label": label})

    def show(self, sample: Sample, tokenizer: Any) -> str:
        return self._shown(sample, tokenizer, self.facts.labels[int(sample["labels"][0])])
