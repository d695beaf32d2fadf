"""Token sequences: prepared features, samples, and padding into micro-batches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.tasks import IGNORE, Batch, FeatureContext, Features, Row, Sample

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from launcher.prepare.token_arrays import TokenArrays

LENGTH_MULTIPLES = {"cuda": 64}
"""`Task.length_multiple` by type of device. Fewer lengths mean fewer plans of kernels and less fragmented memory. On a
CPU there would only be more padding to compute."""


def integer_type(vocab_size: int) -> pa.DataType:
    """Return the smallest integer type for the token ids of a vocabulary."""
    return pa.uint16() if vocab_size <= 2**16 else pa.uint32()


def table(encoded: "TokenArrays", vocab_size: int, **columns: pa.Array) -> pa.Table:
    """Return token sequences as a table with `input_ids`, `length` and further columns."""
    ids = lists(encoded, pa.array(encoded.ids).cast(integer_type(vocab_size)))
    return pa.table({"input_ids": ids, "length": pa.array(encoded.lengths.astype(np.int32)), **columns})


def lists(encoded: "TokenArrays", values: pa.Array) -> pa.Array:
    """Return a column with a list for each text. values: one for each token of the texts."""
    return pa.ListArray.from_arrays(pa.array(encoded.offsets.astype(np.int32)), values)


def cut_rows(lengths: NDArray[np.integer], room: int) -> dict[str, NDArray[np.integer]]:
    """Return `Features.cut` for texts truncated to `room` tokens. lengths: tokens of each text before truncation."""
    return {"rows": (lengths > room).astype(np.int64)}


def text_features(batch: pa.RecordBatch, context: FeatureContext, label: pa.Array) -> Features:
    """Return the texts, or pairs of texts, of a batch as truncated token sequences with a column `label`."""
    encoder, length = context.encoder, context.max_length
    columns = {"label": label}
    if "text_pair" in batch.schema.names:
        encoded, truncated = encoder.pairs(batch.column("text"), batch.column("text_pair"), length)
        cut: dict[str, NDArray[np.integer]] = {"rows": truncated.astype(np.int64)}
        if encoded.types is not None:
            columns["token_type_ids"] = lists(encoded, pa.array(encoded.types))
    else:
        room = length - len(encoder.prefix) - len(encoder.suffix)
        whole = encoder.encode(batch.column("text"))
        cut = cut_rows(whole.lengths, room)
        encoded = whole.truncated(room).between(encoder.prefix, encoder.suffix)
    return Features(table(encoded, encoder.vocab_size, **columns), cut=cut)


def row_inputs(row: Row) -> Sample:
    """Return the token ids of a row as int64, and also the token types if it has them."""
    return {name: row[name].astype(np.int64) for name in ("input_ids", "token_type_ids") if name in row}


def pad(arrays: Sequence[NDArray[np.integer]], value: int, least: int = 0) -> NDArray[np.int64]:
    """Return arrays of tokens, padded with `value`, as one of shape (len(arrays), longest), int64. least: the minimum
    of `longest`."""
    longest = max(least, *(len(a) for a in arrays))
    out = np.full((len(arrays), longest), value, dtype=np.int64)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out


def padded_length(lengths: NDArray[np.int64], multiple: int, most: int) -> int:
    """Return the length of a micro-batch of samples of these lengths. Equal lengths need no padding, and are kept.
    multiple, most: as for `padded_lengths`."""
    longest = lengths.max()
    return int(longest if lengths.min() == longest else padded_lengths(longest, multiple, most))


def padded_lengths(lengths: NDArray[np.int64], multiple: int, most: int) -> NDArray[np.int64]:
    """Return lengths rounded up to a multiple (`Task.length_multiple`), for kernels that depend on the length.

    most: the longest sample of the data, which none exceeds, since a model may have no more positions.
    """
    return np.maximum(lengths, np.minimum(-(-lengths // multiple) * multiple, most))


def inputs(samples: Sequence[Sample], pad_token_id: int, least: int = 0) -> Batch:
    """Return a batch with the model's `inputs`. It has an attention mask only if something is padded, because attention
    is faster without one. least: the minimum length of the rows."""
    batch: Batch = {"input_ids": pad([s["input_ids"] for s in samples], pad_token_id, least)}
    if "token_type_ids" in samples[0]:
        batch["token_type_ids"] = pad([s["token_type_ids"] for s in samples], 0, least)
    lengths, width = lengths_of(samples), batch["input_ids"].shape[1]
    if lengths.min() != width:
        batch["attention_mask"] = (np.arange(width) < lengths[:, None]).astype(np.int64)
    return {"inputs": batch}


def lengths_of(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """Return the number of tokens of each sample."""
    return np.array([len(sample["input_ids"]) for sample in samples], dtype=np.int64)


def weight(sample: Sample) -> float:
    """Return the number of labels other than IGNORE."""
    return float(np.count_nonzero(sample["labels"] != IGNORE))


def zero_weight(sample: Sample) -> Sample:
    """Return a copy of the sample in which all labels are IGNORE."""
    return {**sample, "labels": np.full_like(sample["labels"], IGNORE)}


def model_logits(model: "torch.nn.Module", inputs: dict[str, Any]) -> "torch.Tensor":
    """Return the model's logits, in at least fp32. A model returns an object with `logits`, as in transformers, or a
    tensor."""
    output = model(**inputs)
    return full_precision(getattr(output, "logits", output))


def full_precision(logits: "torch.Tensor") -> "torch.Tensor":
    """Return half-precision logits as fp32, because losses are summed over many values; return others unchanged."""
    return logits.float() if logits.dtype.itemsize < 4 else logits


def render(tokens: NDArray[np.integer], tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return tokens as rich markup, separated by blanks."""
    from rich.markup import escape

    return escape(" ".join(tokenizer.convert_ids_to_tokens(tokens.tolist())))
