"""The rows of the source from which prepared training samples were made.

A prepared folder has no row numbers. They are found again in the way in which the samples were made: the shards of the
source are read in their order, without the rows that are held out, dropped or unusable. Each row gives a number of
units: samples, or tokens if documents are joined and cut. The units of each batch of rows are counted once and kept
beside the prepared folder, so that later only the batches of the requested samples are tokenised again.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.config import plugins, strict_json
from launcher.config.atomic_files import write
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.config.strict_json import Count, DamagedFile, Stored
from launcher.data import BadRow
from launcher.plan.facts import Facts
from launcher.prepare import source_shards
from launcher.prepare.encode import Encoder
from launcher.prepare.feature_context import FeatureContext
from launcher.prepare.preparation import Preparation
from launcher.prepare.prepared_samples import PreparedSamples
from launcher.prepare.shards import ShardJob
from launcher.storage import lease

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Document:
    """A row of a source, and its part of a sample.

    `source`: name of the source in a mixture, or its kind. `place`: of the row, such as file:line. `start`, `stop`:
    positions of its tokens in the sample. `skipped`: number of its tokens before this part, for a joined document.
    `piece`: number of the sample among those of the row, from 0.
    """

    source: str
    place: str
    start: int
    stop: int
    skipped: int = 0
    piece: int = 0


class UnitCounts(Stored):
    """Units of each batch of training rows, by shard."""

    units: list[list[Count]]


class Unattributable(UserError):
    """Error: the source gives other samples than those that are prepared."""


@dataclass(frozen=True)
class _Part:
    """Units `start` to `stop` of a sample that come from one row: the row's number in its shard, and the number of the
    row's units before them."""

    row: int
    start: int
    stop: int
    before: int


@contextmanager
def opened(recipe: Recipe, facts: Facts, prepared: Path) -> Iterator["SampleSources"]:
    """Survey the sources of prepared data, whose identity has to be that of the recipe. Raises UserError."""
    with tempfile.TemporaryDirectory(prefix="launcher-rows-") as name:
        work = Path(name)
        if (prepared / "tokenizer").is_dir():
            (work / "tokenizer").symlink_to(prepared.absolute() / "tokenizer", target_is_directory=True)
        held = lease.claim(work, ".rows")
        try:
            jobs = Preparation(recipe, facts.digest, work, work, held, processes=None).surveyed()
            yield SampleSources([job for job in jobs if job.shard.leaf.side == "train"], facts, prepared)
        finally:
            held.release()


class SampleSources:
    """Finds the rows of training samples. `jobs`: the surveyed shards of the training sources."""

    def __init__(self, jobs: Sequence[ShardJob], facts: Facts, prepared: Path):
        self._jobs, self._facts, self._prepared = jobs, facts, prepared
        self._samples = PreparedSamples(prepared, "train")
        task = plugins.task(jobs[0].task)
        self._task, self._joined = task, jobs[0].task.joins_documents
        self._encoder = Encoder(prepared / "tokenizer") if task.tokenized else None

    def documents(self, ids: Sequence[int]) -> dict[int, list[Document]]:
        """Return the rows of these samples. Raises Unattributable."""
        units = self._units()
        counts = [self._samples_of(sum(of_shard)) for of_shard in units]
        firsts = [0, *accumulate(counts)]
        if firsts[-1] != len(self._samples):
            raise Unattributable(f"the sources give {firsts[-1]:,} samples, not the {len(self._samples):,} prepared")
        found = dict[int, list[Document]]()
        for number, job in enumerate(self._jobs):
            wanted = sorted({id for id in ids if firsts[number] <= id < firsts[number + 1]})
            if wanted:
                found |= self._of_shard(job, firsts[number], units[number], wanted)
        return found

    def _samples_of(self, units: int) -> int:
        return -(-units // self._length) if self._joined else units

    @property
    def _length(self) -> int:
        return self._jobs[0].data.max_length

    def _units(self) -> list[list[int]]:
        """Return the units of each batch, by shard, from the file beside the prepared folder, which is written if it is
        missing or damaged."""
        file = self._prepared.with_name(f"{self._prepared.name}.rows.json")
        with suppress(DamagedFile):
            known = strict_json.read(file, UnitCounts, "").units
            if len(known) == len(self._jobs):
                return known
        units = [[int(self._count(job, batch).sum()) for _, batch in own_rows(job)] for job in self._jobs]
        with suppress(OSError):  # a cache that cannot be written costs time only
            write(file, UnitCounts(units=units).model_dump_json(), flushed=False)
        return units

    def _count(self, job: ShardJob, batch: pa.RecordBatch) -> Ids:
        """Return the units of a batch: tokens of each row if documents are joined, else the number of all samples,
        shape (1,)."""
        if not self._joined:
            return np.array([sum(table.num_rows for table in self._tables(job, batch))], dtype=np.int64)
        assert self._encoder is not None
        lengths = self._encoder.encode(batch.column("text")).lengths
        return np.where(lengths > 0, lengths + len(self._encoder.prefix) + len(self._encoder.suffix), 0)

    def _tables(self, job: ShardJob, batch: pa.RecordBatch) -> Iterator[pa.Table]:
        context = FeatureContext(job.survey, job.data.max_length, job.shard.leaf.key, self._encoder)
        return (made.table for made in self._task.features(job.task, iter([batch]), context))

    def _of_shard(
        self, job: ShardJob, first: int, units: Sequence[int], wanted: Sequence[int]
    ) -> dict[int, list[Document]]:
        """Return the documents of the samples of a shard. `first`: id of its first sample; `units`: of its batches."""
        size = self._length if self._joined else 1
        ranges = {id: ((id - first) * size, min((id - first + 1) * size, sum(units))) for id in wanted}
        parts = {id: list[_Part]() for id in wanted}
        begin = 0
        for (numbers, batch), count in zip(own_rows(job), units, strict=True):
            here = {id: span for id, span in ranges.items() if span[0] < begin + count and span[1] > begin}
            if here:
                for id, part in self._parts(job, batch, numbers, begin, here):
                    parts[id].append(part)
            begin += count
        places = _places(job, {part.row for found in parts.values() for part in found})
        name = job.shard.leaf.name
        return {id: [self._document(id, part, name, places) for part in found] for id, found in parts.items()}

    def _document(self, id: int, part: _Part, name: str, places: Mapping[int, str]) -> Document:
        if self._joined:
            return Document(name, places[part.row], part.start, part.stop, skipped=part.before)
        return Document(name, places[part.row], 0, int(self._samples.lengths([id])[0]), piece=part.before)

    def _parts(
        self, job: ShardJob, batch: pa.RecordBatch, numbers: Ids, begin: int, here: Mapping[int, tuple[int, int]]
    ) -> Iterator[tuple[int, _Part]]:
        """Yield (sample id, part) for the rows of a batch. `numbers`: of the rows in their shard; `begin`: units of the
        shard before the batch; `here`: units of each requested sample."""
        if not self._joined:
            yield from self._single(job, batch, numbers, begin, here)
            return
        assert self._encoder is not None
        tokens = self._encoder.encode(batch.column("text"))
        rows = np.flatnonzero(tokens.lengths > 0)
        whole = tokens.select(tokens.lengths > 0).between(self._encoder.prefix, self._encoder.suffix)
        for id, (start, stop) in here.items():
            first = int(np.searchsorted(whole.offsets + begin, start, side="right")) - 1
            expected = self._samples.rows([id])[0]["input_ids"]
            for row in range(max(0, first), len(whole)):
                at = begin + int(whole.offsets[row])
                low, high = max(start, at), min(stop, begin + int(whole.offsets[row + 1]))
                if low >= high:
                    break
                if not np.array_equal(whole.ids[low - begin : high - begin], expected[low - start : high - start]):
                    raise Unattributable(f"sample {id} does not have the tokens that the source has at its place")
                yield id, _Part(int(numbers[rows[row]]), low - start, high - start, low - at)

    def _single(
        self, job: ShardJob, batch: pa.RecordBatch, numbers: Ids, begin: int, here: Mapping[int, tuple[int, int]]
    ) -> Iterator[tuple[int, _Part]]:
        """Yield (sample id, part) for samples of one row each, whose row is found by halving the batch."""
        if not here:
            return
        if batch.num_rows > 1:
            half = batch.num_rows // 2
            middle = begin + int(self._count(job, batch[:half]).sum())
            left = {id: span for id, span in here.items() if span[0] < middle}
            right = {id: span for id, span in here.items() if span[0] >= middle}
            yield from self._single(job, batch[:half], numbers[:half], begin, left)
            yield from self._single(job, batch[half:], numbers[half:], middle, right)
            return
        made = pa.concat_tables(self._tables(job, batch))
        for id, (start, _) in here.items():
            piece = start - begin
            known, row = self._samples.rows([id])[0], made.slice(piece, 1)
            if row.num_rows != 1 or (
                "input_ids" in known and row["input_ids"][0].as_py() != known["input_ids"].tolist()
            ):
                raise Unattributable(f"sample {id} does not have the tokens that the source has at its place")
            yield id, _Part(int(numbers[0]), 0, 1, piece)


def own_rows(job: ShardJob) -> Iterator[tuple[Ids, pa.RecordBatch]]:
    """Yield the rows of a surveyed shard that stay on its own side, with their numbers among its usable rows."""
    there = job.dropped_file.is_file()
    dropped = np.load(job.dropped_file, allow_pickle=False) if there else np.empty(0, dtype=np.int64)
    seen = 0
    for batch, _, _ in source_shards.read(job.shard, job.columns):
        numbers = np.arange(seen, seen + batch.num_rows, dtype=np.int64)
        seen += batch.num_rows
        if batch.num_rows:
            kept = ~np.isin(numbers, dropped) & job.split(batch)[job.shard.leaf.side]
            if kept.any():
                yield numbers[kept], batch.filter(pa.array(kept))


def _places(job: ShardJob, wanted: set[int]) -> dict[int, str]:
    """Return the places of rows by their numbers among the usable rows of a shard."""
    source, leaf, number = plugins.source(job.shard.leaf.config), job.shard.leaf, 0
    found = dict[int, str]()
    for part in job.shard.parts:
        rows = source.rows(job.columns, leaf.key, part)
        for row, place in zip(rows, source.places(leaf.key, part), strict=False):
            if isinstance(row, BadRow):
                continue
            if number in wanted:
                found[number] = place()
            number += 1
            if len(found) == len(wanted):
                return found
    raise Unattributable(f"{leaf.key}: its rows cannot be counted again")
