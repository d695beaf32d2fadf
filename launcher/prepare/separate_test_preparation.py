"""The steps of the preparation of a test set with sources of its own (see launcher.prepare.separate_test)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from launcher.config import plugins
from launcher.config.errors import Problem, UserError
from launcher.config.format import plural
from launcher.data import INPUTS
from launcher.plan import facts
from launcher.prepare import duplicates, shard_stats, source_shards
from launcher.prepare.preparation import Preparation, copy_tokenizer, of_samples
from launcher.prepare.row_batches import hashes
from launcher.prepare.shards import ShardJob, Survey

_HASHES = "test-hashes.npy"
"""File with the hashes of all test rows, in the folder of intermediate files."""


@dataclass(frozen=True)
class SeparateTestPreparation(Preparation):
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
