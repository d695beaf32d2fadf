"""A test set with sources of its own, prepared in a folder beside that of the training and validation data.

Those keep their folder and its digest, so that a test set changes nothing that is trained. Its rows become samples with
the tokenizer and the labels of the training data. Rows that the training or validation data has too are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from launcher.config import paths, plugins, strict_json
from launcher.config.errors import Problem, UserError
from launcher.config.format import plural
from launcher.config.recipe import Recipe
from launcher.data import INPUTS
from launcher.plan import facts
from launcher.plan.facts import Facts
from launcher.prepare import bundle, duplicates, prepared_data, shard_stats, source_shards, token_ids
from launcher.prepare.preparation import Preparation, copy_tokenizer, of_samples
from launcher.prepare.row_batches import hashes
from launcher.prepare.shards import ShardJob, Survey
from launcher.storage import cache, cache_root

_HASHES = "test-hashes.npy"
"""File with the hashes of all test rows, in the folder of intermediate files."""


def identity(recipe: Recipe, prepared: str) -> str | None:
    """Return the name of the prepared folder of the test set; None: it has no sources of its own.

    `prepared`: name of the folder of the training data. Raises UserError with every source that cannot be read.
    """
    if not (leaves := source_shards.test_leaves(recipe.data)):
        return None
    return bundle.test_identity(recipe) or prepared_data.digest(["test", prepared], leaves)


def prepare_all(recipe: Recipe, name: str | None, processes: int | None = None) -> tuple[Path, Facts]:
    """Prepare the data of a pinned recipe, then its test set. Returns the folder of the data, and the facts. `name`: of
    that folder, if it is known. `processes`: maximum number of processes. Raises UserError."""
    prepared = prepared_data.prepare(recipe, name, processes)
    return prepared, prepare(recipe, token_ids.complete(recipe, prepared), prepared, processes)


def prepare(recipe: Recipe, known: Facts, prepared: Path, processes: int | None = None) -> Facts:
    """Prepare the test set if it has sources of its own, and return the facts of the data with it. Raises UserError.

    `known`, `prepared`: facts and folder of the training data. `processes`: maximum number of processes.
    """
    name = identity(recipe, prepared.name)
    if name is None:
        return known

    def make(making: cache.FolderCreation) -> None:
        _Preparation(recipe, name, making.work, making.whole, making.lease, processes, prepared).run()

    return _joined(known, prepared_data.fill(name, make, partial(_identity, recipe, prepared.name), "data.test"))


def find(recipe: Recipe, known: Facts, prepared: Path) -> Facts:
    """Return the facts of the data, with the test set if it is prepared. `known`, `prepared`: as for `prepare`."""
    name = identity(recipe, prepared.name)
    folder = prepared_data.find(name) if name else None
    return known if folder is None else _joined(known, folder)


def folder_of(known: Facts, prepared: Path) -> Path:
    """Return the prepared folder with the test samples. `prepared`: the folder of the training data."""
    return cache_root.prepared(known.test_digest) if known.test_digest else prepared


def _identity(recipe: Recipe, prepared: str) -> str:
    return identity(recipe, prepared) or ""


def _joined(known: Facts, folder: Path) -> Facts:
    """Return the facts of the data with those of its test set."""
    hint = f"move {folder} away: its data is prepared again"
    test = strict_json.read(folder / paths.FACTS, Facts, hint)
    sides = {
        "samples": {**known.samples, **test.samples}, "tokens": {**known.tokens, **test.tokens},
        "documents": {**known.documents, **test.documents}, "cut": {**known.cut, **test.cut},
    }  # fmt: skip
    of_test = {"test_digest": test.digest, "test_baseline": test.test_baseline}
    return known.model_copy(update={**sides, **of_test, "notes": [*known.notes, *test.notes]})


@dataclass(frozen=True)
class _Preparation(Preparation):
    """One attempt to fill the folder of a test set. `main`: the folder of the training data."""

    main: Path

    def prepare(self) -> None:
        known = facts.read(self.main)
        survey: Survey = {"labels": known.labels, "shape": list(known.shape)}
        jobs = [replace(job, survey=survey) for job in self.shard_jobs(source_shards.test_leaves(self.recipe.data))]
        if plugins.task(self.recipe.inner_task).tokenized:
            copy_tokenizer(self.main, known, self.work)
        left_out = self._leave_out(jobs)
        counted = self.make_samples(jobs)
        self._check_not_empty(jobs, counted, left_out)
        self.join_shards(jobs, "test")
        config, task = self.recipe.inner_task, plugins.task(self.recipe.inner_task)
        found = shard_stats.counts(self.recipe.data, counted)
        found["test_baseline"] = task.baseline(config, of_samples(self.whole / "test.arrow"), known.special_ids)
        also = f"{plural(left_out, 'row')} of data.test that training or validation has too: left out"
        found["notes"] = [*shard_stats.reading_notes(counted), *([also] if left_out else [])]
        self.write_facts(known.model_copy(update={**found, "digest": self.name}))

    def _leave_out(self, jobs: Sequence[ShardJob]) -> int:
        """Leave out the test rows with equal inputs in the training or validation data. Returns their number."""
        self.map(_hash_rows, jobs, "looking through")
        of_rows = [np.load(job.hashes_file, allow_pickle=False) for job in jobs]
        duplicates.save(self.work / _HASHES, np.unique(np.concatenate(of_rows)))
        others = self.shard_jobs(source_shards.leaves(self.recipe.data), self.work / "others")
        self.map(_find_common, others, "comparing")
        common = np.concatenate([np.load(job.hashes_file, allow_pickle=False) for job in others])
        for job, own in zip(jobs, of_rows, strict=True):
            duplicates.save(job.dropped_file, np.flatnonzero(np.isin(own, common)))
        return int(sum(np.count_nonzero(np.isin(own, common)) for own in of_rows))

    @staticmethod
    def _check_not_empty(jobs: Sequence[ShardJob], counted: shard_stats.Counted, left_out: int) -> None:
        """Raise UserError if no test row is left."""
        if not any(stats.documents["test"] for _, stats in counted) and left_out:
            what = f"each of its {plural(left_out, 'row')} stands in the training or validation data too"
            raise UserError(Problem(jobs[0].shard.leaf.key, what))
        shard_stats.check_sources(counted)


def _hashes_of(job: ShardJob) -> "list[NDArray[np.uint64]]":
    """Return the hashes of the rows of a shard, by batch. The inputs alone count, as for shares that are held out."""
    batches = (batch for batch, _, _ in source_shards.read(job.shard, job.columns))
    return [np.empty(0, np.uint64), *(hashes(batch, INPUTS)[:, 0] for batch in batches if batch.num_rows)]


def _hash_rows(job: ShardJob) -> None:
    """Write the hash of each row of a test shard."""
    if not job.hashes_file.is_file():
        duplicates.save(job.hashes_file, np.concatenate(_hashes_of(job)))


def _find_common(job: ShardJob) -> None:
    """Write the hashes that a shard of the training or validation data has in common with the test rows."""
    if not job.hashes_file.is_file():
        test = np.load(job.work.parent / _HASHES, allow_pickle=False)
        common = [np.intersect1d(batch, test) for batch in _hashes_of(job)]
        duplicates.save(job.hashes_file, np.unique(np.concatenate(common)))
