"""The samples of a step: a pure function of the recipe, the prepared data and the step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launcher.config import plugins
from launcher.config.errors import UserError
from launcher.contract import digest
from launcher.contract.packing import capacity, pack
from launcher.contract.random import Stream
from launcher.plan import sample_order
from launcher.plan.facts import total_steps
from launcher.prepare.prepared_samples import PreparedSamples
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir
from launcher.tasks import Sample
from launcher.tools.seen.run_data import RunData
from launcher.train.data_loader import RankBatches

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class StepSamples:
    """The samples of a step in the order of the global batch.

    `steps`: of the whole run. `epochs`, `ids`, `lengths`: of each sample. `digest`: as in metrics.jsonl.
    """

    step: int
    steps: int
    epochs: Ids
    ids: Ids
    lengths: Ids
    samples: Sequence[Sample]
    digest: str


def of(data: RunData, step: int) -> StepSamples:
    """Return the samples of a step, which is counted from 1. Raises UserError if the run has no such step."""
    recipe, facts = data.recipe, data.facts
    steps = total_steps(recipe, facts)
    if not 1 <= step <= steps:
        raise UserError(f"{data.folder.path}: has no step {step} (its steps are 1 to {steps:,})")
    task = plugins.task(recipe.task)(recipe.task, facts)
    prepared, order = PreparedSamples(data.prepared, "train"), sample_order.order(recipe, facts)
    size = recipe.train.global_batch
    batches = RankBatches(prepared, order, task, size, recipe.seed, Stream.MASK, 0, 1, None, steps=steps)
    epochs, ids = order.step(step - 1, size)
    samples = batches.shown(step - 1, size)
    hashes = [digest.sample(n, int(epochs[n]), int(ids[n]), sample) for n, sample in enumerate(samples)]
    text = digest.text(digest.total(hashes))
    return StepSamples(step, steps, epochs, ids, prepared.lengths(ids), samples, text)


def packed_rows(data: RunData, chosen: StepSamples) -> tuple[int, Mapping[int, tuple[int, int]]]:
    """Return the number of ranks that trained the step, and for each sample, by its place in the global batch, its row
    and the position of its first token in the row. Empty if samples share no rows, or if the ranks are not known."""
    ranks = _ranks(data.folder, chosen.step)
    if not data.recipe.packed or not ranks:
        return ranks, {}
    shares = max(1, ranks // data.recipe.tensor_parallel)
    rows = pack(chosen.lengths, capacity(chosen.lengths, shares, data.recipe.data.max_length))
    found = dict[int, tuple[int, int]]()
    for number, row in enumerate(rows):
        starts = np.cumsum(chosen.lengths[row]) - chosen.lengths[row]
        found |= {place: (number, start) for place, start in zip(row.tolist(), starts.tolist(), strict=True)}
    return ranks, found


def _ranks(folder: RunDir, step: int) -> int:
    """Return the number of ranks of the last start that can have trained a step; 0: not known."""
    starts = [start for job in job_log.story(job_log.read(folder)) for start in job.starts]
    fitting = [start for start in starts if start.first < step and start.ranks]
    return max(fitting, key=lambda start: start.begun).ranks if fitting else 0
