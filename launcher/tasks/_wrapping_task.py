"""Base class of a task that changes the loss of another task, and has the same samples and metrics."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from launcher.config import plugins
from launcher.contract.random import Draw
from launcher.tasks import (
    Batch,
    BatchOutputs,
    ConfigT,
    Directions,
    FeatureContext,
    Features,
    JsonObject,
    Outputs,
    Row,
    Sample,
    Task,
)

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from launcher.plan.facts import Facts


class WrappingTask(Task[ConfigT]):
    """A task that delegates to its `inner` task (`config.held`), except for the loss, which a kind defines. Preparation
    calls the inner task directly (see Recipe.inner_task), except for its check of the recipe."""

    def __init__(self, config: ConfigT, facts: "Facts"):
        super().__init__(config, facts)
        self.inner = inner = plugins.task(config.held)(config.held, facts)
        self.columns, self.target_columns, self.survey_columns = (
            inner.columns, inner.target_columns, inner.survey_columns,
        )  # fmt: skip
        self.tokenized, self.auto_class = inner.tokenized, inner.auto_class
        self.needs_initial_model, self.has_top_predictions = inner.needs_initial_model, inner.has_top_predictions

    @staticmethod
    def preparation_key(config: ConfigT) -> JsonObject:
        return plugins.task(config.held).preparation_key(config.held)

    @staticmethod
    def features(config: ConfigT, rows: "Iterable[pa.RecordBatch]", context: FeatureContext) -> Iterator[Features]:
        return plugins.task(config.held).features(config.held, rows, context)

    @staticmethod
    def baseline(config: ConfigT, validation: "Iterable[pa.Table]", special_ids: Sequence[int]) -> dict[str, float]:
        return plugins.task(config.held).baseline(config.held, validation, special_ids)

    def model_options(self) -> JsonObject:
        return self.inner.model_options()

    def generation_options(self) -> JsonObject:
        return self.inner.generation_options()

    def output_size(self, length: int) -> float:
        return self.inner.output_size(length)

    def samples(self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: Draw) -> list[Sample]:
        return self.inner.samples(rows, epochs, ids, draw)

    def weight(self, sample: Sample) -> float:
        return self.inner.weight(sample)

    def zero_weight(self, sample: Sample) -> Sample:
        return self.inner.zero_weight(sample)

    @property
    def length_multiple(self) -> int:
        return self.inner.length_multiple

    @length_multiple.setter
    def length_multiple(self, multiple: int) -> None:
        self.inner.length_multiple = multiple

    def pack(self, samples: Sequence[Sample]) -> Sample:
        return self.inner.pack(samples)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return self.inner.collate(samples)

    def prepare_model(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        return self.inner.prepare_model(model, batch)

    def predict(self, model: "torch.nn.Module", batch: Batch) -> BatchOutputs:
        return self.inner.predict(model, batch)

    def host_outputs(self, outputs: BatchOutputs) -> BatchOutputs:
        return self.inner.host_outputs(outputs)

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        return self.inner.metrics(outputs)

    def directions(self) -> Directions:
        return self.inner.directions()

    def generate(self, model: "PreTrainedModel", batch: Batch) -> "list[NDArray[np.int64]]":
        return self.inner.generate(model, batch)

    def generation_metrics(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> dict[str, float]:
        return self.inner.generation_metrics(outputs, tokenizer)

    def merge_predictions(self, predictions: Sequence[JsonObject]) -> JsonObject:
        return self.inner.merge_predictions(predictions)

    def report(self, outputs: Outputs) -> JsonObject:
        return self.inner.report(outputs)

    def top_predictions(self, outputs: Outputs, count: int) -> list[list[JsonObject]]:
        return self.inner.top_predictions(outputs, count)

    def predictions(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> list[JsonObject]:
        return self.inner.predictions(outputs, tokenizer)

    def render(self, sample: Sample, tokenizer: "PreTrainedTokenizerBase") -> str:
        return self.inner.render(sample, tokenizer)
