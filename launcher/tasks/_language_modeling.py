"""Base classes of language-modelling tasks: loss and metrics of predicted tokens, and samples from plain text."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeVar

from launcher.config.types import TaskConfig
from launcher.tasks import (
    IGNORE,
    Batch,
    BatchOutputs,
    ConfigT,
    Directions,
    FeatureContext,
    Features,
    JsonObject,
    Outputs,
    Sample,
    Task,
    _metrics,
    _packed_rows,
    _sequences,
    _token_batches,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from launcher.prepare.encode import Encoder
    from launcher.prepare.token_arrays import TokenArrays
    from launcher.tasks._output_layer import OutputLayer


def summed_loss(logits: "torch.Tensor", labels: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the summed cross entropy and the number of labels without IGNORE. logits: shape (n, classes); labels:
    (n,)."""
    from torch.nn.functional import cross_entropy

    loss = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return loss, (labels != IGNORE).sum()


def unigram_baseline(columns: Iterable[pa.ChunkedArray], special_ids: Sequence[int]) -> dict[str, float]:
    """Return the entropy of the token frequencies in nats, which is the loss of predicting by these frequencies.
    columns: lists of token ids; special_ids: tokens to leave out."""
    counts = np.zeros(0, dtype=np.int64)
    for column in columns:
        for chunk in column.chunks:
            tokens = chunk.flatten().to_numpy()
            more = np.bincount(tokens[tokens != IGNORE], minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
    counts[[i for i in special_ids if i < len(counts)]] = 0
    shares = counts[counts > 0] / max(1, counts.sum())
    return {"unigram_entropy": float(-(shares * np.log(shares)).sum())}


class LanguageModelingTask(Task[ConfigT]):
    """A task whose classes are the vocabulary. A micro-batch has `labels`, shape (n,), and `rows`, the index of each
    label's sample. A kind implements `logits`, which returns shape (n, vocabulary)."""

    distillable, whole_outputs = True, False
    _output_layer: "OutputLayer | None" = None
    """The layer that returns losses in place of logits; None: the loss is computed from the logits."""

    def weight(self, sample: Sample) -> float:
        return _token_batches.weight(sample)

    def zero_weight(self, sample: Sample) -> Sample:
        return _token_batches.zero_weight(sample)

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, torch.Tensor]":
        if self._output_layer is None:
            return self.loss_from_logits(self.logits(model, batch), batch)
        labels = batch["labels"]
        with self._output_layer.summing(labels):
            return self.logits(model, batch).sum(), (labels != IGNORE).sum()

    def loss_from_logits(self, logits: "torch.Tensor", batch: Batch) -> "tuple[torch.Tensor, torch.Tensor]":
        return summed_loss(logits, batch["labels"])

    def predict(self, model: "torch.nn.Module", batch: Batch) -> BatchOutputs:
        """Return for each sample the summed loss, the number of labels and the number of correct predictions."""
        import torch

        labels = batch["labels"]
        loss, correct = self._scores(model, batch)
        by_label = {"loss": loss, "weight": labels != IGNORE, "correct": correct}
        zeros = torch.zeros(_sequences.count(batch), dtype=torch.float64, device=labels.device)
        return {name: zeros.index_add(0, batch["rows"], values.double()) for name, values in by_label.items()}

    def _scores(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return for each label its loss, and whether it has the largest logit. Shapes (n,)."""
        from torch.nn.functional import cross_entropy

        labels = batch["labels"]
        if self._output_layer is None:
            logits = self.logits(model, batch)
            losses = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
            return losses, logits.argmax(-1) == labels
        with self._output_layer.scoring(labels):
            scores = self.logits(model, batch)
        return scores[:, 0], scores[:, 1]

    def _prepare_output_layer(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        """Compute losses in blocks of labels if the model's last layer allows it. Returns a note if it does not."""
        from launcher.tasks import _output_layer

        self._output_layer = _output_layer.attach(self, model, batch)
        if self._output_layer is not None:
            return []
        return [f"{type(model).__name__}: the loss needs all logits at once (they are no linear layer's output)"]

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        loss, weight, correct = (_metrics.total(outputs, name) for name in ("loss", "weight", "correct"))
        weight = max(1.0, weight)
        loss /= weight
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "accuracy": correct / weight}

    def directions(self) -> Directions:
        return {"loss": "min", "perplexity": "min", "accuracy": "max"}

    def predictions(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> list[JsonObject]:
        """Return for each sample the mean loss and the number of its labels."""
        pairs = zip(outputs["loss"], outputs["weight"], strict=True)
        return [{"loss": loss / max(1.0, weight), "tokens": int(weight)} for loss, weight in pairs]


class PretrainingConfig(TaskConfig):
    """Keys of tasks that learn from plain text."""

    samples: Literal["chunks", "documents", "packed"] = "chunks"
    """`chunks`: documents, joined and cut at max_length; `documents`: one sample for each document; `packed`: the
    samples of `documents`, with several in each row of a micro-batch, which affects only speed."""
    overflow: Literal["truncate", "split"] = "truncate"
    """Treatment of a document longer than max_length: truncated, or split into several samples."""
    stride: int = Field(0, ge=0)
    """Tokens that neighbouring samples of a split document share."""

    @property
    def joins_documents(self) -> bool:
        return self.samples == "chunks"

    @property
    def packs_rows(self) -> bool:
        return self.samples == "packed"

    @property
    def overlap(self) -> int:
        return self.stride

    @model_validator(mode="after")
    def _check_overflow(self) -> "PretrainingConfig":
        if self.samples == "chunks" and self.overflow != "truncate":
            raise PydanticCustomError("overflow", "chunks are cut from joined documents: overflow is for documents")
        if self.stride and self.overflow != "split":
            raise PydanticCustomError("stride", "a stride needs overflow: split")
        return self


PretrainingConfigT = TypeVar("PretrainingConfigT", bound=PretrainingConfig, default=PretrainingConfig)


class PretrainingTask(LanguageModelingTask[PretrainingConfigT]):
    """A language model trained on plain text, in chunks, documents or packed rows."""

    columns = ("text",)
    padding_free = True
    causal = False
    """Whether a token attends only to earlier tokens."""
    _packing: _packed_rows.Packing | None = None

    @staticmethod
    def preparation_key(config: PretrainingConfigT) -> JsonObject:
        """Return the settings of the prepared samples. Packed samples are prepared as documents, because rows are
        packed at each step."""
        samples = "chunks" if config.samples == "chunks" else "documents"
        return {"features": "text", "samples": samples, "overflow": config.overflow, "stride": config.stride}

    @staticmethod
    def features(
        config: PretrainingConfigT, rows: Iterable[pa.RecordBatch], context: FeatureContext
    ) -> Iterator[Features]:
        """Yield documents or chunks. The column `begins` says for each token whether a word begins there."""
        encoder, length = context.encoder, context.max_length
        room = length - len(encoder.prefix) - len(encoder.suffix)
        remainder = None
        for batch in rows:
            encoded = encoder.encode(batch.column("text"))
            nonempty, truncates = encoded.lengths > 0, not config.joins_documents and config.overflow == "truncate"
            cut = _token_batches.cut_rows(encoded.lengths, room) if truncates else {}
            encoded = encoded.select(nonempty)
            if config.joins_documents:
                joined = encoded.between(encoder.prefix, encoder.suffix)
                joined = joined if remainder is None else joined.after(remainder)
                encoded, remainder = joined.cut(length, last=False)
            else:
                pieces = encoded.truncated(room) if truncates else encoded.windows(room, min(config.stride, room - 1))
                encoded = pieces.between(encoder.prefix, encoder.suffix)
            yield Features(_table(encoded, encoder), int(np.count_nonzero(~nonempty)), cut)
        if remainder is not None:
            yield Features(_table(remainder.cut(length, last=True)[0], encoder))

    @staticmethod
    def baseline(
        config: PretrainingConfigT, validation: Iterable[pa.Table], special_ids: Sequence[int]
    ) -> dict[str, float]:
        return unigram_baseline((table["input_ids"] for table in validation), special_ids)

    @classmethod
    def packing_error(
        cls, model: "torch.nn.Module", documents: "Sequence[torch.Tensor]", pad_token_id: int
    ) -> str | None:
        return _packed_rows.packing_error(model, documents, pad_token_id, cls.causal)

    def pack(self, samples: Sequence[Sample]) -> Sample:
        return _packed_rows.concatenate(samples)

    def _padded_inputs(self, samples: Sequence[Sample]) -> Batch:
        """Return the padded inputs of a micro-batch of single samples or of packed rows."""
        if "document" in samples[0]:
            return _packed_rows.inputs(samples, self.facts.pad_token_id)
        return _token_batches.inputs(samples, self.facts.pad_token_id, self._padded_length(samples))

    def _padded_length(self, samples: Sequence[Sample]) -> int:
        """Return the length of a micro-batch of single samples, or of packed rows, whose attention has its own mask."""
        lengths = _token_batches.lengths_of(samples)
        return (
            int(lengths.max())
            if "document" in samples[0]
            else _token_batches.padded_length(lengths, self.length_multiple, self.facts.longest)
        )

    def _prepare_packing(self, model: "torch.nn.Module", batch: Batch) -> None:
        """Prepare the model for packed rows if the configuration uses them. Raises UserError if the model cannot take
        them."""
        if self.config.packs_rows:
            self._packing = _packed_rows.prepare(model, batch, self.facts.pad_token_id, self.causal)

    def _model_inputs(self, batch: Batch) -> dict[str, Any]:
        """Return the keyword arguments of the model's forward."""
        return dict(batch["inputs"]) if self._packing is None else self._packing.inputs(batch)


def _table(encoded: "TokenArrays", encoder: "Encoder") -> pa.Table:
    begins = _token_batches.lists(encoded, pa.array(encoded.begins))
    return _token_batches.table(encoded, encoder.vocab_size, begins=begins)
