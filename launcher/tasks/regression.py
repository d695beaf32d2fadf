"""Regression: a number for a text, or for a pair of texts."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from launcher.config.columns import Column
from launcher.config.types import TaskConfig
from launcher.tasks import Features, Sample, _regression_targets, _text_inputs

if TYPE_CHECKING:
    from launcher.prepare.encode import Encoder


class Config(TaskConfig):
    """A number for each text."""

    kind: Literal["regression"] = "regression"


class Task(_text_inputs.TextInputs, _regression_targets.RegressionTargets):
    columns = ("text", "text_pair", Column("label", "number"))
    surveyed = ()

    @staticmethod
    def prepared(config: Config) -> dict[str, Any]:
        return {"features": "regression"}

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
            yield _text_inputs.features(batch, encoder, length, {"label": _regression_targets.numbers(batch)})

    def show(self, sample: Sample, tokenizer: Any) -> str:
        return self._shown(sample, tokenizer, f"{sample['labels'][0]:g}")
