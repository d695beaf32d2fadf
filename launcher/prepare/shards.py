"""Steps of a preparation that one process does with one shard.

Each step leaves complete files or none. After an interruption, a preparation continues with the missing files.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from launcher.config import plugins
from launcher.config.atomic_files import partial_name, write, write_aside
from launcher.config.recipe import Data, Fold, Fraction, Share
from launcher.config.types import TaskConfig
from launcher.data import TEXTS, Source
from launcher.prepare import duplicates, source_shards, strata
from launcher.prepare.encode import Encoder
from launcher.prepare.feature_context import FeatureContext
from launcher.prepare.row_batches import hashes, held_out, held_out_for_test, in_fold
from launcher.prepare.shard_files import is_complete, open_batches
from launcher.prepare.shard_stats import ShardStats
from launcher.prepare.source_shards import Shard, Side
from launcher.prepare.strata import Strata

if TYPE_CHECKING:
    from launcher.tasks import Features

Survey = dict[str, Any]
"""What the task found in all training rows (see launcher.tasks.Task.survey)."""

_TABLE_BYTES = 2**25
"""Bytes of samples that are held before they are written. Most shards have fewer."""


@dataclass(frozen=True)
class ShardJob:
    """A shard, and what the steps need besides it. `work`: folder for files; `strata`: the split of each label for
    stratified validation; None: it is not known yet, or there is none."""

    shard: Shard
    data: Data
    task: TaskConfig
    work: Path
    survey: Survey = field(default_factory=dict)
    strata: Strata | None = None

    @property
    def size(self) -> int:
        return self.shard.size

    @property
    def columns(self) -> tuple[str, ...]:
        return source_shards.columns_of(self.task)

    @property
    def stratified(self) -> bool:
        return self.shard.leaf.side == "train" and strata.stratified(self.data, self.columns)

    @property
    def deduplicated(self) -> bool:
        return self.data.deduplicate and self.shard.leaf.side == "train"

    @property
    def survey_file(self) -> Path:
        return self._file("look", "json")

    @property
    def hashes_file(self) -> Path:
        return self._file("hashes", "npy")

    @property
    def labels_file(self) -> Path:
        return self._file("labels", "arrow")

    @property
    def dropped_file(self) -> Path:
        return self._file("dropped", "npy")

    @property
    def stats_file(self) -> Path:
        return self._file("shard", "json")

    def samples_file(self, side: Side) -> Path:
        return self._file(side, "arrow")

    def _file(self, name: str, suffix: str) -> Path:
        return self.work / f"{name}-{self.shard.number:06}.{suffix}"

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides that rows of the source may have. Its own comes first, then those for which rows are held out."""
        if (own := self.shard.leaf.side) != "train":
            return (own,)
        return ("train", "validation", "test") if isinstance(self.data.test, Share) else ("train", "validation")

    def split(self, batch: pa.RecordBatch) -> dict[Side, NDArray[np.bool_]]:
        """Return which rows each side gets, shape (rows,) each. Before the strata are known, no row of a stratified
        source is held out for validation; this loses no label, since each keeps a training row."""
        none = np.zeros(batch.num_rows, dtype=bool)
        if len(self.sides) == 1:
            return {self.shard.leaf.side: ~none}
        test = held_out_for_test(batch, self.data.test.fraction) if isinstance(self.data.test, Share) else none
        validation, of = none, self.data.validation
        if self.stratified:
            validation = none if self.strata is None else self.strata.held_out(batch)
        elif isinstance(of, Fraction):
            validation = held_out(batch, of.fraction)
        elif isinstance(of, Fold):
            validation = in_fold(batch, of.fold, of.of)
        masks: dict[Side, NDArray[np.bool_]] = {"train": ~test & ~validation, "validation": ~test & validation}
        return {**masks, "test": test} if "test" in self.sides else masks


def survey_shard(job: ShardJob) -> None:
    """Collect the values of the training rows in the columns that the task surveys. Also write a hash of each row, for
    deduplication, and a hash and label of each, for stratified validation."""
    if is_complete(job.survey_file):
        return
    surveyed = plugins.task(job.task).survey_columns
    values: dict[str, set[str]] = {name: set() for name in surveyed}
    row_hashes = [np.empty((0, 2), dtype=np.uint64)]
    labels = list[pa.RecordBatch]()
    for batch, _, _ in source_shards.read(job.shard, job.columns):
        if not batch.num_rows:
            continue
        if job.deduplicated:
            row_hashes.append(hashes(batch, job.columns))
        masks = job.split(batch)
        if job.stratified:
            labels.append(strata.hashed_labels(batch.filter(pa.array(~masks["test"])) if "test" in masks else batch))
        train = batch.filter(pa.array(masks["train"])) if "train" in masks else batch[:0]
        for name in surveyed:
            values[name].update(surveyed_values(train.column(name)))
    if job.deduplicated:
        duplicates.save(job.hashes_file, np.concatenate(row_hashes))
    if job.stratified:
        strata.save(job.labels_file, labels)
    write(job.survey_file, json.dumps({name: sorted(seen) for name, seen in values.items()}))


def surveyed_values(column: pa.Array) -> Iterable[str]:
    """Return the distinct values of a column: entries of lists, shapes of images, or lengths of lists of numbers."""
    if pa.types.is_struct(column.type):
        shapes = zip(*(column.field(name).to_pylist() for name in ("height", "width", "channels")), strict=True)
        return {"x".join(map(str, shape)) for shape in shapes}
    if pa.types.is_list(column.type) and not pa.types.is_string(column.type.value_type):
        return map(str, pc.unique(column.value_lengths()).to_pylist())
    flat = column.flatten() if pa.types.is_list(column.type) else column
    values: list[str] = pc.unique(flat).drop_null().to_pylist()
    return values


def training_texts(job: ShardJob, limit: int) -> Iterator[list[str]]:
    """Yield the texts of the first `limit` training rows, for a tokenizer; the columns of a batch one after the
    other."""
    for batches in _split_rows(job, ShardStats()):
        batch = batches["train"][:limit]
        if not batch.num_rows:
            continue
        for name in TEXTS:
            if name in batch.schema.names:
                yield batch.column(name).to_pylist()
        if "words" in batch.schema.names:
            yield [" ".join(words) for words in batch.column("words").to_pylist()]
        limit -= batch.num_rows
        if limit <= 0:
            return


def make_samples(job: ShardJob) -> None:
    """Write the samples of all sides, and the stats of the rows."""
    if is_complete(job.stats_file):
        return
    stats, leaf = ShardStats(), job.shard.leaf
    source = plugins.source(leaf.config)
    held = {side: partial_name(job.work / f"held-{side}-{job.shard.number:06}.arrow") for side in job.sides[1:]}
    try:
        _write_samples(job, leaf.side, _features(job, _own_rows(job, stats, source, held), stats), stats)
        for side, file in held.items():
            rows = open_batches(file) if stats.documents[side] else iter(())
            _write_samples(job, side, _features(job, rows, stats), stats)
    finally:
        for file in held.values():
            file.unlink(missing_ok=True)
    stats.notes = source_shards.notes(source, leaf.key, job.shard.parts)
    write(job.stats_file, stats.json())


def _own_rows(job: ShardJob, stats: ShardStats, source: Source, held: Mapping[Side, Path]) -> Iterator[pa.RecordBatch]:
    """Yield the rows that stay on the source's own side. Those that are held out for another side are written to its
    file in `held`."""
    with ExitStack() as open_files:
        writers = dict[Side, Any]()
        for batches in _split_rows(job, stats, source):
            for side, file in held.items():
                if not batches[side].num_rows:
                    continue
                if side not in writers:
                    writers[side] = open_files.enter_context(pa.ipc.new_stream(file, batches[side].schema))
                writers[side].write_batch(batches[side])
            if (own := batches[job.shard.leaf.side]).num_rows:
                yield own


def _split_rows(job: ShardJob, stats: ShardStats, source: Source | None = None) -> Iterator[dict[Side, pa.RecordBatch]]:
    """Split each batch of a shard into the rows of each side, without duplicates, and count the rows in `stats`. A side
    may be empty."""
    there = job.dropped_file.is_file()
    dropped = np.load(job.dropped_file, allow_pickle=False) if there else np.empty(0, dtype=np.int64)
    seen = 0
    for batch, bad, example in source_shards.read(job.shard, job.columns, source):
        stats.bad, stats.example = stats.bad + bad, stats.example or example
        if not batch.num_rows:
            continue
        keep = ~np.isin(np.arange(seen, seen + batch.num_rows), dropped)
        seen += batch.num_rows
        stats.duplicates += int(np.count_nonzero(~keep))
        batches = {side: batch.filter(pa.array(keep & mask)) for side, mask in job.split(batch).items()}
        for side, rows in batches.items():
            stats.documents[side] += rows.num_rows
        yield batches


def _features(job: ShardJob, rows: Iterable[pa.RecordBatch], stats: ShardStats) -> "Iterator[Features]":
    """Yield the samples that the task makes from rows."""
    task, encoder = plugins.task(job.task), None
    if task.tokenized:
        encoder = _encoder(job.work / "tokenizer")
        rows = _count_special_words(encoder, rows, stats)
    context = FeatureContext(job.survey, job.data.max_length, job.shard.leaf.key, encoder)
    return task.features(job.task, rows, context)


def _count_special_words(
    encoder: Encoder, rows: Iterable[pa.RecordBatch], stats: ShardStats
) -> Iterator[pa.RecordBatch]:
    """Pass rows through, and count texts with words that the tokenizer reads as special tokens."""
    for batch in rows:
        for name in (name for name in (*TEXTS, "words") if name in batch.schema.names):
            column = batch.column(name)
            texts = column.flatten() if name == "words" else column
            matches = pc.match_substring_regex(texts, encoder.special_words)
            if count := pc.sum(matches).as_py():
                stats.special += count
                stats.special_word = stats.special_word or _excerpt(
                    encoder.special_words, str(texts.filter(matches)[0].as_py())
                )
        yield batch


def _excerpt(pattern: str, text: str) -> str:
    """Return the first match in a text with the characters around it; without a match, the text."""
    match = re.search(pattern, text)
    return text if match is None else text[max(0, match.start() - 40) : match.end() + 40]


def _write_samples(job: ShardJob, side: Side, features: "Iterable[Features]", stats: ShardStats) -> None:
    """Write the samples of a shard as one record batch, or as several for a very large shard. Fewer batches are faster
    to open."""
    lengths = Counter[int]()
    with write_aside(job.samples_file(side)) as aside, ExitStack() as open_file:
        writer = None
        for table in _combined(features, stats, side):
            writer = writer or open_file.enter_context(pa.ipc.new_stream(aside, table.schema))
            writer.write_table(table)
            numbers, counts = np.unique(table["length"].to_numpy(), return_counts=True)
            lengths.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
    stats.lengths[side] = {str(length): count for length, count in sorted(lengths.items())}


def _combined(features: "Iterable[Features]", stats: ShardStats, side: Side) -> Iterator[pa.Table]:
    """Combine many small tables of samples into few large ones."""
    tables, size = list[pa.Table](), 0
    for table, empty, cut in features:
        stats.empty += empty
        stats.add_cut(side, {name: int(rows.sum()) for name, rows in cut.items()})
        if table.num_rows:
            tables.append(table)
            size += table.nbytes
        if size > _TABLE_BYTES:
            yield pa.concat_tables(tables).combine_chunks()
            tables, size = [], 0
    if tables:
        yield pa.concat_tables(tables).combine_chunks()


@lru_cache(maxsize=1)
def _encoder(folder: Path) -> Encoder:
    return Encoder(folder)
