"""What one process does with one shard. Each step leaves files that are whole or not there, so that a preparation that
was interrupted goes on with the shards that are missing."""

import json
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from launcher.config import plugins
from launcher.config.atomic_files import flush, write
from launcher.config.recipe import Data, Fraction
from launcher.config.types import TaskConfig
from launcher.data._columns import TEXTS
from launcher.prepare import duplicates, source_shards, strata
from launcher.prepare.encode import Encoder
from launcher.prepare.feature_context import FeatureContext
from launcher.prepare.source_shards import Shard, Side, hashes, held_out, read
from launcher.prepare.strata import Strata

if TYPE_CHECKING:
    from launcher.tasks import Features

SIDES: tuple[Side, ...] = ("train", "validation")

_AT_ONCE = 2**25
"""Bytes of samples that are held before they are written: more than most shards have."""


@dataclass(frozen=True)
class Job:
    """A shard and what is to be done with it. `survey`: what the task found in all shards; `work`: where files go;
    `strata`: what is held out of each label, where that is stratified and known."""

    shard: Shard
    data: Data
    task: TaskConfig
    work: Path
    survey: dict[str, Any] = field(default_factory=dict)
    strata: Strata | None = None

    @property
    def size(self) -> int:
        return self.shard.size

    @property
    def columns(self) -> tuple[str, ...]:
        return source_shards.columns_of(self.task)

    @property
    def looked(self) -> Path:
        return self.work / f"look-{self.shard.number:06}.json"

    @property
    def hashes(self) -> Path:
        return self.work / f"hashes-{self.shard.number:06}.npy"

    @property
    def labels(self) -> Path:
        return self.work / f"labels-{self.shard.number:06}.arrow"

    @property
    def stratified(self) -> bool:
        return self.shard.leaf.side == "train" and strata.stratified(self.data, self.columns)

    @property
    def dropped(self) -> Path:
        return self.work / f"dropped-{self.shard.number:06}.npy"

    @property
    def made(self) -> Path:
        return self.work / f"shard-{self.shard.number:06}.json"

    def samples(self, side: Side) -> Path:
        return self.work / f"{side}-{self.shard.number:06}.arrow"


@dataclass
class Counted:
    """What became of a shard's rows. `lengths`: of each side, the samples by their number of tokens. `cut`: of each
    side what truncation left out, by name (see launcher.tasks.Features). `special`: texts that hold a
    word which the tokenizer reads as a special token, with the first of them. `notes`: on how the source is read."""

    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    lengths: dict[str, dict[str, int]] = field(default_factory=lambda: {side: {} for side in SIDES})
    bad: int = 0
    duplicates: int = 0
    empty: int = 0
    example: str = ""
    special: int = 0
    special_word: str = ""
    cut: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def look(job: Job) -> None:
    """The values of the columns that the task surveys, on the training side; for deduplication, a hash of each row; for
    strata, a hash and a label."""
    if _finished(job.looked):
        return
    surveyed = plugins.task(job.task).survey_columns
    values: dict[str, set[str]] = {name: set() for name in surveyed}
    found = [np.empty((0, 2), dtype=np.uint64)]
    labels = list[pa.RecordBatch]()
    for batch, _, _ in read(job.shard, job.columns):
        if not batch.num_rows:
            continue
        if job.stratified:
            labels.append(strata.rows(batch))
        if _deduplicates(job):
            found.append(hashes(batch, job.columns))
        train = batch.filter(pa.array(~_held_out(job, batch))) if job.shard.leaf.side == "train" else batch[:0]
        for name in surveyed:
            values[name].update(_values(train.column(name)))
    if _deduplicates(job):
        duplicates.save(job.hashes, np.concatenate(found))
    if job.stratified:
        strata.save(job.labels, labels)
    write(job.looked, json.dumps({name: sorted(seen) for name, seen in values.items()}))


def texts(job: Job, most: int) -> Iterator[list[str]]:
    """The texts of the first documents of the training side, pairs one after the other."""
    for batch in _own(job, Counted(), None):
        batch = batch[:most]
        for name in TEXTS:
            if name in batch.schema.names:
                yield batch.column(name).to_pylist()
        if "words" in batch.schema.names:
            yield [" ".join(words) for words in batch.column("words").to_pylist()]
        most -= batch.num_rows
        if most <= 0:
            return


def features(job: Job) -> None:
    """The samples of both sides, and what became of the rows."""
    if _finished(job.made):
        return
    counted, leaf, task = Counted(), job.shard.leaf, plugins.task(job.task)
    held = _aside(job.work / f"held-{job.shard.number:06}.arrow")
    sides = [(leaf.side, _own(job, counted, held))]
    if leaf.side == "train":
        sides.append(("validation", _held(held, counted)))
    try:
        for side, rows in sides:
            encoder = _encoder(job.work / "tokenizer") if task.tokenized else None
            rows = rows if encoder is None else _seen_by(encoder, rows, counted)
            context = FeatureContext(job.survey, job.data.max_length, leaf.key, encoder)
            _write(job, side, task.features(job.task, rows, context), counted)
    finally:
        held.unlink(missing_ok=True)
    leaf = job.shard.leaf
    counted.notes = source_shards.notes(leaf.config, leaf.key, job.shard.parts)
    write(job.made, json.dumps(vars(counted)))


def _seen_by(encoder: Encoder, rows: Iterable[pa.RecordBatch], counted: Counted) -> Iterator[pa.RecordBatch]:
    """The rows, while those are counted whose texts hold words that the tokenizer reads as special tokens."""
    for batch in rows:
        for name in (name for name in (*TEXTS, "words") if name in batch.schema.names):
            column = batch.column(name)
            texts = column.flatten() if name == "words" else column
            there = pc.match_substring_regex(texts, encoder.special_words)
            if count := pc.sum(there).as_py():
                first = texts.filter(there)[0].as_py()
                counted.special += count
                counted.special_word = counted.special_word or str(_around(encoder.special_words, first))
        yield batch


def _around(words: str, text: str) -> str:
    """The first of these words in a text, with what stands around it."""
    found = re.search(words, text)
    return text if found is None else text[max(0, found.start() - 40) : found.end() + 40]


def _values(column: pa.Array) -> Iterable[str]:
    """What is surveyed of a column: its values, those of lists one by one; of images the shapes, of lists of numbers
    how many they are."""
    if pa.types.is_struct(column.type):
        shapes = zip(*(column.field(name).to_pylist() for name in ("height", "width", "channels")), strict=True)
        return {"x".join(map(str, shape)) for shape in shapes}
    if pa.types.is_list(column.type) and not pa.types.is_string(column.type.value_type):
        return map(str, pc.unique(column.value_lengths()).to_pylist())
    flat = column.flatten() if pa.types.is_list(column.type) else column
    values: list[str] = pc.unique(flat).drop_null().to_pylist()
    return values


def _aside(file: Path) -> Path:
    """A name of nobody else's, on any machine, to write under first."""
    return file.with_name(f".{uuid.uuid4().hex}.{file.name}")


def _finished(file: Path) -> bool:
    """Whether a step has left this file, and whole: a power failure may empty one that was not flushed."""
    try:
        return isinstance(json.loads(file.read_bytes()), dict)
    except (OSError, ValueError):
        return False


def _own(job: Job, counted: Counted, held: Path | None) -> Iterator[pa.RecordBatch]:
    """The rows of the side that the source is for. Those that are held out of it go to a file, if one is given."""
    with ExitStack() as open_file:
        writer = None
        for own, other in _sides(job, counted):
            if other.num_rows and held is not None:
                writer = writer or open_file.enter_context(pa.ipc.new_stream(held, other.schema))
                writer.write_batch(other)
            if own.num_rows:
                yield own


def _held(file: Path, counted: Counted) -> Iterator[pa.RecordBatch]:
    """The rows of that file. Raises OSError where it is gone: another has taken over, and has swept."""
    if counted.documents["validation"]:
        with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
            yield from stream


def _sides(job: Job, counted: Counted) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """The rows of the side that the source is for, and those that are held out of it for validation."""
    dropped = np.load(job.dropped, allow_pickle=False) if job.dropped.is_file() else np.empty(0, dtype=np.int64)
    seen = 0
    for batch, bad, example in read(job.shard, job.columns):
        counted.bad, counted.example = counted.bad + bad, counted.example or example
        if not batch.num_rows:
            continue
        keep = ~np.isin(np.arange(seen, seen + batch.num_rows), dropped)
        seen += batch.num_rows
        counted.duplicates += int(np.count_nonzero(~keep))
        out = _held_out(job, batch)
        own, other = batch.filter(pa.array(keep & ~out)), batch.filter(pa.array(keep & out))
        counted.documents[job.shard.leaf.side] += own.num_rows
        counted.documents["validation"] += other.num_rows
        yield own, other


def _held_out(job: Job, batch: pa.RecordBatch) -> Any:
    """Which rows of a training source belong to validation; of one that is stratified none, before its strata are
    known: each label keeps a row on the training side."""
    if job.strata is not None and job.stratified:
        return job.strata.held_out(batch)
    if job.shard.leaf.side == "train" and isinstance(job.data.validation, Fraction) and not job.stratified:
        return held_out(batch, job.data.validation.fraction)
    return np.zeros(batch.num_rows, dtype=bool)


def _deduplicates(job: Job) -> bool:
    return job.data.deduplicate and job.shard.leaf.side == "train"


def _write(job: Job, side: Side, made: "Iterable[Features]", counted: Counted) -> None:
    """A shard's samples, as one record batch unless it is a very large one: the fewer there are in a corpus, the faster
    it is opened."""
    file = job.samples(side)
    aside = _aside(file)
    lengths = Counter[int]()
    try:
        with ExitStack() as open_file:
            writer = None
            for table in _together(made, counted, side):
                writer = writer or open_file.enter_context(pa.ipc.new_stream(aside, table.schema))
                writer.write_table(table)
                numbers, counts = np.unique(table["length"].to_numpy(), return_counts=True)
                lengths.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
        if lengths:
            flush(aside)
            aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
    counted.lengths[side] = {str(length): count for length, count in sorted(lengths.items())}


def _together(made: "Iterable[Features]", counted: Counted, side: Side) -> Iterator[pa.Table]:
    """Tables of many samples in place of many tables."""
    tables, size = list[pa.Table](), 0
    for table, empty, cut in made:
        counted.empty += empty
        of_side = counted.cut.setdefault(side, {})
        for name, count in cut.items():
            of_side[name] = of_side.get(name, 0) + int(count.sum())
        if table.num_rows:
            tables.append(table)
            size += table.nbytes
        if size > _AT_ONCE:
            yield pa.concat_tables(tables).combine_chunks()
            tables, size = [], 0
    if tables:
        yield pa.concat_tables(tables).combine_chunks()


@lru_cache(maxsize=1)
def _encoder(folder: Path) -> Encoder:
    return Encoder(folder)
