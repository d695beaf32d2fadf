"""What text tasks share: encoding rows into Arrow tables, and padding samples into micro-batches."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.tasks import IGNORE, Batch, Row, Sample

ROWS_AT_ONCE = 1000


def batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, ROWS_AT_ONCE)):
        yield batch


def encode(tokenizer: Any, rows: list[Row], max_length: int | None) -> list[Any]:
    """The encodings of rows with special tokens, truncated to `max_length` where given."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    if max_length is None:
        backend.no_truncation()
    else:
        backend.enable_truncation(max_length)
    pairs = [(row["text"], row["text_pair"]) if "text_pair" in row else row["text"] for row in rows]
    encodings: list[Any] = backend.encode_batch_fast(pairs)
    return encodings


def integer_type(vocab_size: int) -> pa.DataType:
    """The smallest type that holds every token id."""
    return pa.uint16() if vocab_size <= 2**16 else pa.uint32()


def table(pieces: Sequence[Sequence[int] | NDArray[np.integer]], vocab_size: int, **columns: pa.Array) -> pa.Table:
    """Token sequences as a table with `input_ids` and `length`."""
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    flat = np.concatenate([np.asarray(piece, dtype=np.int64) for piece in pieces] or [np.empty(0, np.int64)])
    values = pa.array(flat, type=pa.int64()).cast(integer_type(vocab_size))
    ids = pa.ListArray.from_arrays(pa.array(offsets), values)
    return pa.table({"input_ids": ids, "length": pa.array(lengths), **columns})


def pad(arrays: Sequence[NDArray[np.integer]], value: int) -> NDArray[np.int64]:
    """Arrays of tokens as one of shape (len(arrays), longest), int64."""
    longest = max(len(a) for a in arrays)
    out = np.full((len(arrays), longest), value, dtype=np.int64)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out


def inputs(samples: Sequence[Sample], pad_token_id: int) -> Batch:
    """The model's inputs. The attention mask is left out where nothing is padded: attention is faster without."""
    batch: Batch = {"input_ids": pad([s["input_ids"] for s in samples], pad_token_id)}
    if "token_type_ids" in samples[0]:
        batch["token_type_ids"] = pad([s["token_type_ids"] for s in samples], 0)
    lengths = np.array([len(s["input_ids"]) for s in samples])
    if lengths.min() != lengths.max():
        batch["attention_mask"] = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    return {"inputs": batch}


def mute(sample: Sample) -> Sample:
    return {**sample, "labels": np.full_like(sample["labels"], IGNORE)}


def full_precision(logits: Any) -> Any:
    """Half-precision logits as fp32, since a loss is summed over many; fp32 and fp64 as they are."""
    return logits.float() if logits.dtype.itemsize < 4 else logits
