"""Rows of a source as Arrow record batches, and hashes of their content."""

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from launcher.data import INPUTS, TEXTS, Row

_NAMES = pa.list_(pa.string())
_LIST_TYPES = {  # given explicitly, since Arrow cannot infer the type of empty lists
    "words": _NAMES, "labels": _NAMES, "features": pa.list_(pa.float64()),
    "answers": pa.struct({"text": _NAMES, "answer_start": pa.list_(pa.int64())}.items()),
}  # fmt: skip
_IMAGE = pa.struct(
    {"data": pa.large_binary(), "height": pa.int32(), "width": pa.int32(), "channels": pa.int32()}.items()
)


def batch_of(rows: Sequence[Row]) -> pa.RecordBatch:
    """Convert rows with the same columns to a record batch."""
    names = rows[0] if rows else ()
    return pa.RecordBatch.from_pydict({name: _column(name, [row[name] for row in rows]) for name in names})


def _column(name: str, values: list[object]) -> pa.Array:
    """Convert a column to an array.

    Texts become large strings, which have no size limit. Labels become strings, since they are names, unless they are
    floats. Images become their bytes and shapes.
    """
    if name in TEXTS:
        return pa.array(values, pa.large_string())
    if name == "image":
        return pa.array([_image(value) for value in values], _IMAGE)
    if name in _LIST_TYPES or (name == "label" and isinstance(values[0], list)):
        return pa.array(values, _LIST_TYPES.get(name, _NAMES))
    if name == "label" and not isinstance(values[0], float):
        return pa.array(map(str, values), pa.string())
    return pa.array(values)


def _image(value: object) -> dict[str, object]:
    assert isinstance(value, np.ndarray)
    height, width, channels = value.shape
    return {"data": value.tobytes(), "height": height, "width": width, "channels": channels}


def size_of(row: Row) -> int:
    """Return the size of a row's inputs: characters of a text, bytes of an image, entries of a list."""
    values = (row[name] for name in INPUTS if name in row)
    return sum(value.nbytes if isinstance(value, np.ndarray) else len(value) for value in values)


def hashes(batch: pa.RecordBatch, columns: Sequence[str]) -> NDArray[np.uint64]:
    """Return a 128-bit hash of these columns for each row, shape (rows, 2)."""
    values = [list(map(_hashed_text, batch.column(name).to_pylist())) for name in columns if name in batch.schema.names]
    if len(values) == 1:
        texts = values[0]
    else:  # with their lengths, since a text may hold any separator
        texts = ["\0".join((*map(str, map(len, row)), *row)) for row in zip(*values, strict=True)]
    digests = b"".join(xxhash.xxh3_128_digest(text.encode(errors="surrogateescape")) for text in texts)
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)


def _hashed_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and "data" in value:
        shape = [value[name] for name in ("height", "width", "channels")]
        return f"{shape} {value['data'].decode('utf-8', 'surrogateescape')}"
    return json.dumps(value)


def held_out_for_test(batch: pa.RecordBatch, fraction: float) -> NDArray[np.bool_]:
    """Return which rows are held out for the test set, shape (rows,).

    They have the highest hashes, and those for validation the lowest. So neither changes with the other's share.
    """
    selected: NDArray[np.bool_] = hashes(batch, INPUTS)[:, 0] >= np.uint64(min(int((1 - fraction) * 2**64), 2**64 - 1))
    return selected


def in_fold(batch: pa.RecordBatch, fold: int, of: int) -> NDArray[np.bool_]:
    """Return which rows belong to a fold, shape (rows,). A second hash decides, which does not depend on the first."""
    selected: NDArray[np.bool_] = hashes(batch, INPUTS)[:, 1] % np.uint64(of) == fold
    return selected


def held_out(batch: pa.RecordBatch, fraction: float) -> NDArray[np.bool_]:
    """Return which rows are held out for validation, shape (rows,).

    A hash of a row's inputs decides, so that equal rows are on the same side, whatever other rows there are.
    """
    selected: NDArray[np.bool_] = hashes(batch, INPUTS)[:, 0] < np.uint64(min(int(fraction * 2**64), 2**64 - 1))
    return selected
