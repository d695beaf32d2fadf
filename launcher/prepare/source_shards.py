"""The sources of a recipe, divided into shards, and the rows of a shard."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

import pyarrow as pa

from launcher.config import plugins
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import Data, Recipe
from launcher.config.types import Plugin, TaskConfig
from launcher.data import BadRow, Part, Row, Source, SourceConfig
from launcher.prepare.row_batches import batch_of, size_of

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")

_BATCH_SIZE = 4 * 2**20
"""Approximate characters and bytes of a batch of rows."""
_BATCH_ROWS = 20_000
NO_DOCUMENT = "there is no document in it (is the path, the column or the split right?)"
_PREVIEW_ROWS, _PREVIEW_SECONDS = 100, 0.5
"""Maximum number of rows, and maximum seconds, that a plan reads of a source."""


@dataclass(frozen=True)
class LeafSource:
    """A source with rows: any source except a mixture, or a source of a mixture.

    `name`: name in the mixture, or kind. `key`: key of the source in the recipe.
    """

    name: str
    key: str
    config: SourceConfig
    side: Side


@dataclass(frozen=True)
class Shard:
    """The parts of a source that one process reads and tokenises at a time.

    The content alone decides where shards begin and end, so that samples do not depend on the number of processes.
    """

    number: int
    leaf: LeafSource
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


class ShardBatch(NamedTuple):
    """Some rows of a shard. `bad`: number of unusable rows among them; `example`: message about the first one."""

    rows: pa.RecordBatch
    bad: int
    example: str


def leaves(data: Data) -> list[LeafSource]:
    """Return the sources for training and validation. A mixture is replaced by its sources."""
    found = _leaves(data.train, "data.train", "train")
    if isinstance(data.validation, Plugin):
        found += _leaves(data.validation, "data.validation", "validation")
    return found


def test_leaves(data: Data) -> list[LeafSource]:
    """Return the sources of a test set with sources of its own."""
    return _leaves(data.test, "data.test", "test") if isinstance(data.test, Plugin) else []


def _leaves(config: Plugin, key: str, side: Side) -> list[LeafSource]:
    mixed = plugins.source(config).mixed()
    if not mixed:
        return [LeafSource(config.kind, key, _source_config(config, key), side)]
    keys = {name: f"{key}.sources.{name}" for name in mixed}
    return [LeafSource(name, keys[name], _source_config(inner, keys[name]), side) for name, (inner, _) in mixed.items()]


def _source_config(config: Plugin, key: str) -> SourceConfig:
    if not isinstance(config, SourceConfig):
        what = f"kind {config.kind!r}: its Config is no SourceConfig (see launcher/data/__init__.py)"
        raise UserError(Problem(f"{key}.kind", what))
    return config


def shards(sources: Sequence[LeafSource]) -> list[Shard]:
    """Divide sources into shards. Raises UserError.

    A source with a limit is one shard, since its rows are counted in order.
    """
    found: list[Shard] = []
    for leaf in sources:
        parts = tuple(parts_of(leaf.config, leaf.key))
        groups = [(part,) for part in parts] if parts and not leaf.config.limit else [parts]
        found += [Shard(len(found) + n, leaf, group) for n, group in enumerate(groups)]
    return found


def parts_of(config: Plugin, key: str) -> list[Part]:
    """Return the parts of a source, in their order. Raises UserError."""
    return list(plugins.source(config).parts(key))


def notes(source: Source, key: str, parts: Sequence[Part]) -> list[str]:
    """Return notes for the user on how parts were read. `source`: the object that has read their rows."""
    return [note for part in parts for note in source.notes(key, part)]


def columns_of(task: TaskConfig) -> tuple[str, ...]:
    """Return the columns that a task requires."""
    return tuple(plugins.task(task).required_columns(task))


def read(shard: Shard, columns: Sequence[str], source: Source | None = None) -> Iterator[ShardBatch]:
    """Yield the rows of a shard. `source`: object to read them with; None: a new one.

    After the last row of a limit, nothing is read. Raises UserError at the first row that cannot be used, unless the
    source skips such rows.
    """
    config = shard.leaf.config
    left, rows = config.limit, list[Row]()
    size, bad, example = 0, 0, ""
    for row in _rows(shard.leaf, shard.parts, columns, source):
        if isinstance(row, BadRow):
            if config.on_bad_row == "fail":
                raise UserError(_refusal(row, shard.leaf))
            bad, example = bad + 1, example or str(row)
            continue
        rows.append(row)
        size += size_of(row)
        left = None if left is None else left - 1
        if left == 0:
            break
        if size >= _BATCH_SIZE or len(rows) == _BATCH_ROWS:
            yield ShardBatch(batch_of(rows), bad, example)
            rows, size, bad, example = [], 0, 0, ""
    if rows or bad:
        yield ShardBatch(batch_of(rows), bad, example)


def _rows(
    leaf: LeafSource, parts: Sequence[Part], columns: Sequence[str], source: Source | None = None
) -> Iterator[Row | BadRow]:
    source = source or plugins.source(leaf.config)
    for part in parts:
        yield from source.rows(columns, leaf.key, part)


def _refusal(row: BadRow, leaf: LeafSource) -> str:
    return f"{row} (or {leaf.key}.on_bad_row: skip, to leave such rows out)"


def preview_problems(recipe: Recipe) -> list[str | Problem]:
    """Return the first mistake of each source of local files, found in its first rows, for a plan.

    Such mistakes are a missing column, a value of the wrong type, or another encoding.
    """
    columns, found = columns_of(recipe.inner_task), list[str | Problem]()
    for leaf in [*leaves(recipe.data), *test_leaves(recipe.data)]:
        if leaf.config.reads_local_files:
            try:
                found += _preview(leaf, columns)
            except UserError as error:
                found += error.problems
    return found


def _preview(leaf: LeafSource, columns: Sequence[str]) -> list[str | Problem]:
    end, seen = time.monotonic() + _PREVIEW_SECONDS, False
    rows = _rows(leaf, parts_of(leaf.config, leaf.key), columns)
    for row in islice(rows, min(_PREVIEW_ROWS, leaf.config.limit or _PREVIEW_ROWS)):
        if isinstance(row, BadRow) and leaf.config.on_bad_row == "fail":
            return [_refusal(row, leaf)]
        seen = True
        if time.monotonic() > end:
            break
    return [] if seen else [Problem(f"{leaf.key}.path", NO_DOCUMENT)]
