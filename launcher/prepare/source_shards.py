"""The sources of a recipe, cut into shards, and the rows of a shard as Arrow batches."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from launcher.config import plugins
from launcher.config.errors import UserError
from launcher.config.recipe import Data
from launcher.config.types import Plugin, TaskConfig
from launcher.data import INPUTS, BadRow, Part
from launcher.data._columns import TEXTS

Side = Literal["train", "validation"]

_BATCH = 4 * 2**20
"""Characters and bytes of a batch of rows, about."""
_ROWS = 20_000
_NAMES = pa.list_(pa.string())
_LISTS = {  # what lists hold, where all of them are empty too
    "words": _NAMES, "labels": _NAMES, "features": pa.list_(pa.float64()),
    "answers": pa.struct({"text": _NAMES, "answer_start": pa.list_(pa.int64())}.items()),
}  # fmt: skip
_IMAGE = pa.struct(
    {"data": pa.large_binary(), "height": pa.int32(), "width": pa.int32(), "channels": pa.int32()}.items()
)


@dataclass(frozen=True)
class LeafSource:
    """A source that is read, under its name in the recipe. `key`: where it stands there."""

    name: str
    key: str
    config: Any
    side: Side


@dataclass(frozen=True)
class Shard:
    """What one process reads and tokenises at a time. Cut by the content, so that the samples of a corpus do not depend
    on how many processes there are."""

    number: int
    leaf: LeafSource
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


class Read(NamedTuple):
    """Rows, and how many could not be used among them, with the first such told."""

    batch: pa.RecordBatch
    bad: int
    example: str


def leaves(data: Data) -> list[LeafSource]:
    """The sources of both sides; those of a mixture one by one."""
    found = _leaves(data.train, "data.train", "train")
    if isinstance(data.validation, Plugin):
        found += _leaves(data.validation, "data.validation", "validation")
    return found


def shards(found: Sequence[LeafSource]) -> list[Shard]:
    """All shards in their order. A source with a limit is read by one process, which counts. Raises UserError."""
    made: list[Shard] = []
    for leaf in found:
        parts = tuple(parts_of(leaf.config, leaf.key))
        groups = [(part,) for part in parts] if parts and not leaf.config.limit else [parts]
        made += [Shard(len(made) + n, leaf, group) for n, group in enumerate(groups)]
    return made


def read(shard: Shard, columns: Sequence[str]) -> Iterator[Read]:
    """The rows of a shard. Raises UserError at the first that cannot be used, unless the source says to skip them."""
    config = shard.leaf.config
    left, rows = config.limit, list[dict[str, Any]]()
    size, bad, example = 0, 0, ""
    for row in _rows(shard, columns):
        if left == 0:
            break
        if isinstance(row, BadRow):
            if config.on_bad_row == "fail":
                raise UserError(refused(row, shard.leaf))
            bad, example = bad + 1, example or str(row)
            continue
        rows.append(row)
        size += size_of(row)
        left = None if left is None else left - 1
        if size >= _BATCH or len(rows) == _ROWS:
            yield Read(batch_of(rows), bad, example)
            rows, size, bad, example = [], 0, 0, ""
    if rows or bad:
        yield Read(batch_of(rows), bad, example)


def refused(row: BadRow, leaf: LeafSource) -> str:
    """The message about a row that ends a preparation."""
    return f"{row} (or {leaf.key}.on_bad_row: skip, to leave such rows out)"


def parts_of(config: Any, key: str) -> list[Part]:
    """The parts of a source in their order, each with its size in bytes, about. Raises UserError."""
    return list(plugins.source(config).parts(key))


def notes(config: Any, key: str, parts: Sequence[Part]) -> list[str]:
    """What the user should know of how parts of a source are read."""
    source = plugins.source(config)
    return [note for part in parts for note in source.notes(key, part)]


def columns_of(task: TaskConfig) -> tuple[str, ...]:
    """The columns that a task reads."""
    kind = plugins.task(task)
    return tuple(kind.required_columns(task))


def hashes(batch: pa.RecordBatch, names: Sequence[str]) -> NDArray[np.uint64]:
    """128 bits over these columns of each row, shape (rows, 2)."""
    columns = [list(map(_text, batch.column(name).to_pylist())) for name in names if name in batch.schema.names]
    if len(columns) == 1:
        texts = columns[0]
    else:  # with their lengths, since a text may hold any character
        texts = ["\0".join((*map(str, map(len, row)), *row)) for row in zip(*columns, strict=True)]
    digests = b"".join(xxhash.xxh3_128_digest(text.encode(errors="surrogateescape")) for text in texts)
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)


def held_out(batch: pa.RecordBatch, fraction: float) -> NDArray[np.bool_]:
    """Which rows belong to validation: by a hash of what a model is given of them, so that equal ones are never on both
    sides, and one is on the same side whatever else there is."""
    found: NDArray[np.bool_] = hashes(batch, INPUTS)[:, 0] < np.uint64(min(int(fraction * 2**64), 2**64 - 1))
    return found


def _leaves(source: Any, key: str, side: Side) -> list[LeafSource]:
    mixed = plugins.source(source).mixed()
    if not mixed:
        return [LeafSource(source.kind, key, source, side)]
    return [LeafSource(name, f"{key}.sources.{name}", inner, side) for name, (inner, _) in mixed.items()]


def _rows(shard: Shard, columns: Sequence[str]) -> Iterator[Any]:
    source = plugins.source(shard.leaf.config)
    for part in shard.parts:
        yield from source.rows(columns, shard.leaf.key, part)


def batch_of(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """Rows with the same columns as Arrow."""
    names = rows[0] if rows else ()
    columns = {name: _column(name, [row[name] for row in rows]) for name in names}
    return pa.RecordBatch.from_pydict(columns)


def _column(name: str, values: list[Any]) -> pa.Array:
    """Texts as large strings, whose buffers are not bounded; labels as text, since they are names, unless a number is
    wanted; images with their shapes."""
    if name in TEXTS:
        return pa.array(values, pa.large_string())
    if name == "image":
        return pa.array([_image(value) for value in values], _IMAGE)
    if name in _LISTS or (name == "label" and isinstance(values[0], list)):
        return pa.array(values, _LISTS.get(name, _NAMES))
    if name == "label" and not isinstance(values[0], float):
        return pa.array(map(str, values), pa.string())
    return pa.array(values)


def _image(array: NDArray[np.uint8]) -> dict[str, Any]:
    height, width, channels = array.shape
    return {"data": array.tobytes(), "height": height, "width": width, "channels": channels}


def size_of(row: Mapping[str, Any]) -> int:
    """What a model is given of a row: characters of a text, bytes of an image, entries of a list."""
    values = (row[name] for name in INPUTS if name in row)
    return sum(value.nbytes if isinstance(value, np.ndarray) else len(value) for value in values)


def _text(value: Any) -> str:
    """A value as what is hashed of it; a text as it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and "data" in value:
        shape = [value[name] for name in ("height", "width", "channels")]
        return f"{shape} {value['data'].decode('utf-8', 'surrogateescape')}"
    return json.dumps(value)
