"""Tasks with one target for each sample, and heads, which define the loss and the metrics of a target."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from launcher.tasks import (
    Array,
    Batch,
    BatchOutputs,
    ConfigT,
    Directions,
    JsonObject,
    Outputs,
    Row,
    Sample,
    Task,
    _sequences,
    _token_batches,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from launcher.contract.random import Draw


class TargetKind(ABC):
    """Kind of target: a class, a set of labels or a number. A method without a docstring does the same as the method of
    this name in Task. Logits have shape (samples, output_size)."""

    output_size: int

    @abstractmethod
    def model_options(self) -> JsonObject: ...

    def target(self, label: object) -> Array:
        """Return the target of a sample, shape (1,) or (classes,). label: the value of the row's column `label`."""
        return np.atleast_1d(np.asarray(label))

    def collate(self, targets: Sequence[Array]) -> Array:
        """Return the targets of a micro-batch as one array."""
        return np.concatenate(targets)

    @abstractmethod
    def weight(self, target: Array) -> float: ...

    @abstractmethod
    def zero_weight(self, target: Array) -> Array: ...

    @abstractmethod
    def loss(self, logits: "torch.Tensor", labels: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        """Return the summed loss of a micro-batch and its weight."""

    @abstractmethod
    def predict(self, logits: "torch.Tensor", labels: "torch.Tensor") -> "dict[str, torch.Tensor]": ...

    @abstractmethod
    def metrics(self, outputs: Outputs) -> dict[str, float]: ...

    @abstractmethod
    def directions(self) -> Directions: ...

    def report(self, outputs: Outputs) -> JsonObject:
        return {}

    @abstractmethod
    def predictions(self, outputs: Outputs) -> list[JsonObject]: ...

    def top_predictions(self, outputs: Outputs, count: int) -> list[list[JsonObject]]:
        raise NotImplementedError

    @abstractmethod
    def text(self, target: Array) -> str:
        """Return a target as text."""

    def markup(self, target: Array) -> str:
        """Return a target as rich markup, to be appended to that of the sample."""
        from rich.markup import escape

        return f" → [bold reverse]{escape(self.text(target))}[/]"


class SingleTargetTask(Task[ConfigT]):
    """A task whose `target_kind` defines everything that depends on the target.

    Inputs are token sequences, unless a kind overrides samples, collate, logits and render.
    """

    target_kind: TargetKind
    target_columns = ("label",)

    def model_options(self) -> JsonObject:
        return self.target_kind.model_options()

    def output_size(self, length: int) -> float:
        return float(self.target_kind.output_size)

    def samples(self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: "Draw") -> list[Sample]:
        return [{**_token_batches.row_inputs(row), "labels": self.target_kind.target(row["label"])} for row in rows]

    def collate(self, samples: Sequence[Sample]) -> Batch:
        labels = self.target_kind.collate([sample["labels"] for sample in samples])
        least = _token_batches.padded_length(
            _token_batches.lengths_of(samples), self.length_multiple, self.facts.longest
        )
        return {**_token_batches.inputs(samples, self.facts.pad_token_id, least), "labels": labels}

    def concatenate(self, samples: Sequence[Sample]) -> Batch:
        labels = self.target_kind.collate([sample["labels"] for sample in samples])
        return {**_sequences.inputs(samples), "labels": labels}

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        """Return logits of shape (samples, target_kind.output_size)."""
        return _token_batches.model_logits(model, batch["inputs"])

    def render(self, sample: Sample, tokenizer: "PreTrainedTokenizerBase") -> str:
        return _token_batches.render(sample["input_ids"], tokenizer) + self.target_kind.markup(sample["labels"])

    def weight(self, sample: Sample) -> float:
        return self.target_kind.weight(sample["labels"])

    def zero_weight(self, sample: Sample) -> Sample:
        return {**sample, "labels": self.target_kind.zero_weight(sample["labels"])}

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, torch.Tensor]":
        return self.loss_from_logits(self.logits(model, batch), batch)

    def loss_from_logits(self, logits: "torch.Tensor", batch: Batch) -> "tuple[torch.Tensor, torch.Tensor]":
        return self.target_kind.loss(logits, batch["labels"])

    def predict(self, model: "torch.nn.Module", batch: Batch) -> BatchOutputs:
        return self.target_kind.predict(self.logits(model, batch), batch["labels"])

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        return self.target_kind.metrics(outputs)

    def directions(self) -> Directions:
        return self.target_kind.directions()

    def report(self, outputs: Outputs) -> JsonObject:
        return self.target_kind.report(outputs)

    def predictions(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> list[JsonObject]:
        return self.target_kind.predictions(outputs)

    def top_predictions(self, outputs: Outputs, count: int) -> list[list[JsonObject]]:
        return self.target_kind.top_predictions(outputs, count)
