"""What tasks that learn from plain text share: the shapes of their samples, and the features behind them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from launcher.config.types import TaskConfig
from launcher.tasks import IGNORE, Batch, Features, Sample, _packed_rows, _token_batches
from launcher.tasks._language_modeling import LanguageModeling, unigram_entropy

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts
    from launcher.prepare.encode import Encoder


class PretrainingConfig(TaskConfig):
    """Keys of the tasks that learn from plain text."""

    samples: Literal["chunks", "documents", "packed"] = "chunks"
    """`chunks`: documents, joined and cut at max_length; `documents`: one sample a document; `packed`: the samples of
    `documents`, several in a row of a micro-batch, which affects speed only."""
    overflow: Literal["truncate", "split"] = "truncate"
    """What happens to a document longer than max_length: truncated, or split into several samples."""
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
    def _only_of_documents(self) -> "PretrainingConfig":
        if self.samples == "chunks" and self.overflow != "truncate":
            raise PydanticCustomError("overflow", "chunks are cut from joined documents: overflow is for documents")
        if self.stride and self.overflow != "split":
            raise PydanticCustomError("stride", "a stride needs overflow: split")
        return self


class Pretraining(LanguageModeling):
    """What is the same for every such task: their prepared samples, and packing."""

    config: Any
    facts: "Facts"
    columns = ("text",)
    targets = ()
    surveyed = ()
    tokenized = True
    causal = False
    _packing: Any = None

    @staticmethod
    def prepared(config: Any) -> dict[str, Any]:
        """Packed samples are documents: which row they share is decided at each step."""
        shape = "chunks" if config.samples == "chunks" else "documents"
        return {"features": "text", "samples": shape, "overflow": config.overflow, "stride": config.stride}

    @staticmethod
    def features(
        config: Any, rows: Iterable[pa.RecordBatch], survey: dict[str, Any], encoder: "Encoder", length: int, key: str
    ) -> Iterator[Features]:
        """Documents or chunks, with `begins`: whether a word begins at a token."""
        room = length - len(encoder.prefix) - len(encoder.suffix)
        rest = None
        for batch in rows:
            encoded = encoder.encode(batch.column("text"))
            there, truncates = encoded.lengths > 0, config.samples != "chunks" and config.overflow == "truncate"
            cut = _token_batches.cut_rows(encoded.lengths, room) if truncates else {}
            encoded = encoded.select(there)
            empty = int(np.count_nonzero(~there))
            if config.samples == "chunks":
                joined = encoded.between(encoder.prefix, encoder.suffix)
                joined = joined if rest is None else joined.after(rest)
                encoded, rest = joined.cut(length, last=False)
            else:
                pieces = encoded.truncated(room) if truncates else encoded.windows(room, min(config.stride, room - 1))
                encoded = pieces.between(encoder.prefix, encoder.suffix)
            yield Features(_table(encoded, encoder), empty, cut)
        if rest is not None:
            yield Features(_table(rest.cut(length, last=True)[0], encoder))

    @staticmethod
    def baseline(config: Any, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        return {"unigram_entropy": unigram_entropy((table["input_ids"] for table in validation), special_ids)}

    @classmethod
    def refusal(cls, model: "torch.nn.Module", documents: "Sequence[torch.Tensor]", pad_token_id: int) -> str | None:
        return _packed_rows.refusal(model, documents, pad_token_id, cls.causal)

    def weight(self, sample: Sample) -> float:
        return float(np.count_nonzero(sample["labels"] != IGNORE))

    def zero_weight(self, sample: Sample) -> Sample:
        return _token_batches.zero_weight(sample)

    def join(self, samples: Sequence[Sample]) -> Sample:
        return _packed_rows.join(samples)

    def _padded(self, samples: Sequence[Sample]) -> Batch:
        """The inputs of a micro-batch, of single samples or of rows that several share."""
        pad = _packed_rows.inputs if "document" in samples[0] else _token_batches.inputs
        return pad(samples, self.facts.pad_token_id)

    def _try_packing(self, model: "torch.nn.Module", batch: Batch) -> None:
        """Have the model take packed rows, where the configuration asks for them. Raises UserError."""
        if self.config.samples == "packed":
            self._packing = _packed_rows.attach(model, batch, self.facts.pad_token_id, self.causal)

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        """The keyword arguments of the model's forward."""
        return dict(batch["inputs"]) if self._packing is None else self._packing.inputs(batch)


def _table(encoded: Any, encoder: "Encoder") -> pa.Table:
    return _token_batches.table(
        encoded, encoder.vocab_size, begins=_token_batches.lists(encoded, pa.array(encoded.begins))
    )
