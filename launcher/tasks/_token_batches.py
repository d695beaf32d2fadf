"""What text tasks share: token sequences as Arrow tables, and samples padded into micro-batches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.tasks import IGNORE, Batch, Sample

if TYPE_CHECKING:
    from launcher.prepare.token_arrays import TokenArrays


def integer_type(vocab_size: int) -> pa.DataType:
    """The smallest type that holds every token id."""
    return pa.uint16() if vocab_size <= 2**16 else pa.uint32()


def table(encoded: "TokenArrays", vocab_size: int, **columns: pa.Array) -> pa.Table:
    """Token sequences as a table with `input_ids` and `length`."""
    ids = lists(encoded, pa.array(encoded.ids).cast(integer_type(vocab_size)))
    return pa.table({"input_ids": ids, "length": pa.array(encoded.lengths.astype(np.int32)), **columns})


def lists(encoded: "TokenArrays", values: pa.Array) -> pa.Array:
    """A value for each token, as a list for each text."""
    return pa.ListArray.from_arrays(pa.array(encoded.offsets.astype(np.int32)), values)


def cut_rows(lengths: NDArray[np.integer], room: int) -> dict[str, NDArray[np.integer]]:
    """`Features.cut` of rows of so many tokens, of which `room` are kept."""
    return {"rows": (lengths > room).astype(np.int64)}


def pad(arrays: Sequence[NDArray[np.integer]], value: int, least: int = 0) -> NDArray[np.int64]:
    """Arrays of tokens as one of shape (len(arrays), longest), int64. `least`: no shorter than this."""
    longest = max(least, *(len(a) for a in arrays))
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


def zero_weight(sample: Sample) -> Sample:
    return {**sample, "labels": np.full_like(sample["labels"], IGNORE)}


def logits_of(output: Any) -> Any:
    """The logits of a model's output: those of transformers are a map, a plain module may return them as they are."""
    return getattr(output, "logits", output)


def full_precision(logits: Any) -> Any:
    """Half-precision logits as fp32, since a loss is summed over many; fp32 and fp64 as they are."""
    return logits.float() if logits.dtype.itemsize < 4 else logits
