"""The steps of a preparation, from the sources of a recipe to the files of a prepared folder."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from launcher.config import paths, plugins, strict_json
from launcher.config.atomic_files import flush_tree, write
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import Fraction, Recipe
from launcher.config.strict_json import DamagedFile, Stored
from launcher.config.tokenizer import TrainTokenizer
from launcher.plan.facts import Facts
from launcher.prepare import duplicates, process_pool, shard_stats, shards, source_shards, strata, tokenizer
from launcher.prepare.encode import pieces
from launcher.prepare.shard_files import open_batches
from launcher.prepare.shard_stats import Counted, ShardStats
from launcher.prepare.shards import ShardJob, Survey
from launcher.prepare.source_shards import SIDES, LeafSource, Shard, Side
from launcher.prepare.strata import Strata
from launcher.storage.lease import Lease

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MAX_TRAINING_TEXT = 2**16
"""Maximum number of characters of a text that a tokenizer is trained from. Longer texts are cut."""

_TOKEN_IDS = "ids.json"
"""File with the ids of a tokenizer's special tokens, in its folder of intermediate files."""


class _TokenIds(Stored):
    """The fields of Facts that describe a tokenizer."""

    vocab_size: int
    pad_token_id: int
    mask_token_id: int | None
    special_ids: list[int]
    begin_token_id: int | None = None
    end_token_id: int | None = None


_NO_TOKEN_IDS = _TokenIds(vocab_size=0, pad_token_id=0, mask_token_id=None, special_ids=[])


@dataclass(frozen=True)
class Preparation:
    """One attempt to fill a prepared folder. `run` takes all steps.

    `name`: identity of the content. `work`: folder for intermediate files, with which the next attempt continues.
    `whole`: folder to fill. `processes`: maximum number of processes; None: one per processor.
    """

    recipe: Recipe
    name: str
    work: Path
    whole: Path
    lease: Lease
    processes: int | None

    def run(self) -> None:
        """Fill the folder. Raises UserError for mistakes in the data."""
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the processes are parallel
        self.prepare()

    def prepare(self) -> None:
        """Take the steps. Raises UserError."""
        jobs = self.surveyed()
        if plugins.task(self.recipe.inner_task).tokenized:
            self._make_tokenizer(jobs)
        counted = self.make_samples(jobs)
        shard_stats.check_not_empty(self.recipe.data, counted)
        for side in SIDES:
            self.join_shards(jobs, side)
        self._collect_facts(jobs, counted)

    def surveyed(self) -> list[ShardJob]:
        """Return the shards of the sources, with what has to be known before samples are made."""
        return self._survey(self.shard_jobs(source_shards.leaves(self.recipe.data)))

    def shard_jobs(self, leaves: Sequence[LeafSource], work: Path | None = None) -> list[ShardJob]:
        """Divide sources into shards. Their total size is written to a file, for the message about a full disk. `work`:
        another folder for their files."""
        found: list[Shard] = source_shards.shards(leaves)
        folder = work or self.work
        folder.mkdir(exist_ok=True)
        write(folder / "size", f"{sum(shard.size for shard in found)} {len(found)}")
        return [ShardJob(shard, self.recipe.data, self.recipe.inner_task, folder) for shard in found]

    def _survey(self, jobs: Sequence[ShardJob]) -> list[ShardJob]:
        """Read all rows once, if labels, duplicates or strata have to be known before samples are made.

        Returns the jobs with these results.
        """
        config, task, survey = self.recipe.inner_task, plugins.task(self.recipe.inner_task), Survey()
        if task.survey_columns or self.recipe.data.deduplicate:
            self.map(shards.survey_shard, jobs, "looking through")
        if task.survey_columns:
            survey = task.survey(config, _surveyed_values(jobs))
        if self.recipe.data.deduplicate:
            train = [job for job in jobs if job.deduplicated]
            duplicates.drop([job.hashes_file for job in train], [job.dropped_file for job in train])
        split = self._strata(jobs)
        return [replace(job, survey=survey, strata=split) for job in jobs]

    def _strata(self, jobs: Sequence[ShardJob]) -> Strata | None:
        files, validation = [job.labels_file for job in jobs if job.stratified], self.recipe.data.validation
        return strata.split(files, validation.fraction) if files and isinstance(validation, Fraction) else None

    def map(self, function: Callable[[ShardJob], None], jobs: Sequence[ShardJob], what: str) -> None:
        """Call a function for each job, in parallel processes."""
        process_pool.run(function, jobs, what, self.lease, self.processes)

    def _make_tokenizer(self, jobs: Sequence[ShardJob]) -> None:
        """Train or load the tokenizer, and save it with the ids of its special tokens."""
        folder, aside = self.work / "tokenizer", self.work / ".tokenizer"
        if self._known_token_ids() is not None:
            return
        config = tokenizer.source(self.recipe)
        if isinstance(config, TrainTokenizer):
            sample = self._write_training_texts(jobs, config.sample)
            built = tokenizer.train(config, lambda: _training_texts(sample))
        else:
            built = tokenizer.load(config, "tokenizer" if self.recipe.tokenizer is None else "tokenizer.name")
        shutil.rmtree(aside, ignore_errors=True)
        built.save_pretrained(aside)
        (aside / _TOKEN_IDS).write_text(_token_ids(built).model_dump_json(), encoding="utf-8")
        flush_tree(aside)
        self.lease.check()
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        aside.rename(folder)
        (self.work / "sample.arrow").unlink(missing_ok=True)

    def _write_training_texts(self, jobs: Sequence[ShardJob], limit: int | None) -> Path:
        """Write the texts to train the tokenizer from, an equal share of each training shard. Returns the file."""
        train = [job for job in jobs if job.shard.leaf.side == "train"]
        share = 2**62 if limit is None else -(-limit // max(1, len(train)))
        file = self.work / "sample.arrow"
        with pa.ipc.new_stream(file, pa.schema({"text": pa.large_string()})) as writer:
            for job in train:
                for texts in shards.training_texts(job, share):
                    writer.write_batch(pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.large_string())}))
                self.lease.check()
        return file

    def make_samples(self, jobs: Sequence[ShardJob]) -> Counted:
        """Make the samples of every shard."""
        config, task = self.recipe.inner_task, plugins.task(self.recipe.inner_task)
        task(config, self._known_facts(jobs))  # raises for an unusable tokenizer before all is tokenised
        self.map(shards.make_samples, jobs, "tokenising" if task.tokenized else "making samples")
        return [(job.shard.leaf, ShardStats.read(job.stats_file)) for job in jobs]

    def join_shards(self, jobs: Sequence[ShardJob], side: Side) -> None:
        """Write the samples of all shards to one file, a record batch for each."""
        files = {job.samples_file(side): job for job in jobs if job.samples_file(side).is_file()}
        if not files:
            return
        with pa.ipc.open_stream(next(iter(files))) as first:
            schema = first.schema
        with pa.ipc.new_stream(self.whole / f"{side}.arrow", schema) as writer:
            for file, job in files.items():
                for batch in open_batches(file):
                    if batch.schema != schema:
                        what = "pairs of texts in one source and single texts in another do not mix"
                        raise UserError(Problem(job.shard.leaf.key, what))
                    writer.write_batch(batch)
                self.lease.check()

    def _collect_facts(self, jobs: Sequence[ShardJob], counted: Counted) -> None:
        """Write the tokenizer and facts.json beside the samples."""
        known = self._known_facts(jobs)
        config, task = self.recipe.inner_task, plugins.task(self.recipe.inner_task)
        if task.tokenized:
            ignored = shutil.ignore_patterns(_TOKEN_IDS)
            shutil.copytree(self.work / "tokenizer", self.whole / "tokenizer", ignore=ignored)
        found = shard_stats.counts(self.recipe.data, counted)
        found["counts"] = task.count_labels(config, of_samples(self.whole / "train.arrow"), len(known.labels))
        for name, side in (("baseline", "validation"), ("test_baseline", "test")):
            if (samples := self.whole / f"{side}.arrow").is_file():
                found[name] = task.baseline(config, of_samples(samples), known.special_ids)
        found["notes"] = [*shard_stats.reading_notes(counted), *(jobs[0].strata.notes() if jobs[0].strata else [])]
        self.write_facts(known.model_copy(update=found))

    def write_facts(self, facts: Facts) -> None:
        """Write facts.json."""
        (self.whole / paths.FACTS).write_text(facts.model_dump_json(indent=1), encoding="utf-8")

    def _known_facts(self, jobs: Sequence[ShardJob]) -> Facts:
        """Return the facts that are known before the first sample is made."""
        ids, survey = self._known_token_ids() or _NO_TOKEN_IDS, jobs[0].survey
        surveyed = {"labels": survey.get("labels", []), "shape": tuple(survey.get("shape", ()))}
        return Facts(digest=self.name, **dict(ids), **surveyed, longest=1, samples={}, tokens={}, baseline={})

    def _known_token_ids(self) -> _TokenIds | None:
        """Return the ids in the tokenizer's folder; None: there is no tokenizer yet, or a damaged one."""
        try:
            return strict_json.read(self.work / "tokenizer" / _TOKEN_IDS, _TokenIds, "")
        except DamagedFile:
            return None


def copy_tokenizer(prepared: Path, known: Facts, work: Path) -> None:
    """Copy the tokenizer of a prepared folder, whose facts are `known`, to a folder of intermediate files."""
    folder = work / "tokenizer"
    ids = _TokenIds.model_validate({name: getattr(known, name) for name in _TokenIds.model_fields})
    shutil.copytree(prepared / "tokenizer", folder, dirs_exist_ok=True)
    write(folder / _TOKEN_IDS, ids.model_dump_json())


def _surveyed_values(jobs: Sequence[ShardJob]) -> dict[str, set[str]]:
    """Return all values of the surveyed columns, over all shards, by column."""
    values: dict[str, set[str]] = {}
    for job in jobs:
        for name, seen in json.loads(job.survey_file.read_text(encoding="utf-8")).items():
            values.setdefault(name, set()).update(seen)
    return values


def _token_ids(tokenizer: "PreTrainedTokenizerBase") -> _TokenIds:
    special = sorted(tokenizer.all_special_ids)
    return _TokenIds(
        vocab_size=max(len(tokenizer), max(special, default=0) + 1),
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
        mask_token_id=tokenizer.mask_token_id,
        special_ids=special,
        begin_token_id=tokenizer.cls_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id,
        end_token_id=tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id,
    )


def _training_texts(file: Path) -> Iterator[str]:
    """Yield the texts that a tokenizer is trained from.

    Long texts are cut, because a trainer takes some hundred bytes of memory for each character.
    """
    for batch in open_batches(file):
        for text in batch.column("text").to_pylist():
            yield from pieces(text, _MAX_TRAINING_TEXT)


def of_samples(file: Path) -> Iterator[pa.Table]:
    """Yield the samples of a file as tables."""
    for batch in open_batches(file):
        yield pa.Table.from_batches([batch])
