"""What tasks that learn from plain text share: the shapes of their samples, and the features behind them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from launcher.config.types import Plugin
from launcher.tasks import Features, _text

if TYPE_CHECKING:
    from launcher.prepare.encode import Encoder


class PretrainingConfig(Plugin):
    """`samples`: chunks (documents joined and cut at max_length), documents (each one by itself), or packed (the same
    samples, several in a row of the micro-batch: a matter of speed alone). `overflow`: a document that is longer than
    max_length is truncated, or split into several, of which neighbours share `stride` tokens."""

    samples: Literal["chunks", "documents", "packed"] = "chunks"
    overflow: Literal["truncate", "split"] = "truncate"
    stride: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _only_of_documents(self) -> "PretrainingConfig":
        if self.samples == "chunks" and self.overflow != "truncate":
            raise PydanticCustomError("overflow", "chunks are cut from joined documents: overflow is for documents")
        if self.stride and self.overflow != "split":
            raise PydanticCustomError("stride", "a stride needs overflow: split")
        return self


def prepared(config: PretrainingConfig) -> dict[str, Any]:
    """Packed samples are documents: which row they share is decided at each step."""
    shape = "chunks" if config.samples == "chunks" else "documents"
    return {"features": "text", "samples": shape, "overflow": config.overflow, "stride": config.stride}


def features(
    config: PretrainingConfig, rows: Iterable[pa.RecordBatch], encoder: "Encoder", max_length: int
) -> Iterator[Features]:
    """Documents or chunks, with `begins`: whether a word begins at a token."""
    room = max_length - len(encoder.prefix) - len(encoder.suffix)
    stride = min(config.stride, room - 1)
    rest = None
    for batch in rows:
        encoded = encoder.encode(batch.column("text"))
        there = encoded.lengths > 0
        encoded = encoded.select(there)
        empty = int(np.count_nonzero(~there))
        if config.samples == "chunks":
            joined = encoded.between(encoder.prefix, encoder.suffix)
            joined = joined if rest is None else joined.after(rest)
            encoded, rest = joined.cut(max_length, last=False)
        else:
            cut = encoded.windows(room, stride) if config.overflow == "split" else encoded.truncated(room)
            encoded = cut.between(encoder.prefix, encoder.suffix)
        yield Features(_table(encoded, encoder), empty)
    if rest is not None:
        yield Features(_table(rest.cut(max_length, last=True)[0], encoder))


def unigram_entropy(validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
    """The entropy in nats of the tokens' frequencies: the loss of always predicting those."""
    counts = np.zeros(0, dtype=np.int64)
    for table in validation:
        for chunk in table["input_ids"].chunks:
            more = np.bincount(chunk.flatten().to_numpy(), minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
    counts[[i for i in special_ids if i < len(counts)]] = 0
    shares = counts[counts > 0] / max(1, counts.sum())
    return {"unigram_entropy": float(-(shares * np.log(shares)).sum())}


def _table(encoded: Any, encoder: "Encoder") -> pa.Table:
    return _text.table(encoded, encoder.vocab_size, begins=_text.lists(encoded, pa.array(encoded.begins)))
