"""What preparation found out about the data: the part of a prepared folder that plans and tasks need.
Before there is any, a guess stands in."""

import math
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from launcher.config import plugins, strict_json
from launcher.config.format import plural
from launcher.config.recipe import Recipe
from launcher.config.strict_json import Count
from launcher.config.types import Strict
from launcher.plan import vocabulary_size

Side = Literal["train", "validation"]
FILE = "facts.json"
_LABELS = 20
"""Labels whose counts are listed, at the most."""


class TruncationCounts(Strict):
    """What `data.max_length` left out of one side. `rows` of `of` are cut at `tokens` tokens, special ones included;
    `words` and `labels` (other than O) are beyond the cut; `targets` and `questions`: those that are cut."""

    tokens: Count
    of: Count
    rows: Count = 0
    words: Count = 0
    labels: Count = 0
    targets: Count = 0
    questions: Count = 0

    def __str__(self) -> str:
        """Such as `1,083 of 1,583 rows are cut at 128 tokens (2,040 words, 311 labels other than O)`."""
        lost = f" ({plural(self.words, 'word')}, {plural(self.labels, 'label')} other than O)" if self.words else ""
        parts = [f"{self.rows:,} of {self.of:,} rows are cut at {self.tokens} tokens{lost}"] if self.rows else []
        parts += [f"{self.targets:,} of {self.of:,} targets are cut"] if self.targets else []
        parts += [f"{self.questions:,} of {self.of:,} questions are cut"] if self.questions else []
        return ", ".join(parts)


class Facts(Strict):
    """`digest` names the content; `documents`, `samples`, `tokens` by side; `baseline` is what frequencies alone would
    reach. `counts`: training samples by label, in the order of `labels`; `sources`: by source, in their order;
    `lengths`: by their tokens. `left_out`: rows that gave no sample, by reason; `cut`: what truncation left out, by
    side; `token_ids`: of the tokens that the task names; `begin_token_id`, `end_token_id`: what stands before and after
    a text. `shape`: of one sample where it is no text (it has no vocabulary then, and a length of 1), such as
    (channels, height, width)."""

    digest: str
    vocab_size: Count
    pad_token_id: Count
    mask_token_id: Count | None
    special_ids: list[Count]
    begin_token_id: Count | None = None
    end_token_id: Count | None = None
    labels: list[str]
    longest: Count
    samples: dict[str, Count]
    tokens: dict[str, Count]
    baseline: dict[str, float]
    documents: dict[str, Count] = {}
    counts: list[Count] = []
    sources: dict[str, Count] = {}
    lengths: dict[Count, Count] = {}
    left_out: dict[str, Count] = {}
    notes: list[str] = []
    cut: dict[str, TruncationCounts] = {}
    token_ids: dict[str, Count] = {}
    shape: tuple[Count, ...] = ()

    @model_validator(mode="after")
    def _check_sides(self) -> "Facts":
        if missing := self.samples.keys() - self.tokens.keys():
            raise ValueError(f"tokens: {strict_json.shown(min(missing))} is missing, which has samples")
        return self


def cut_notes(known: Facts) -> list[str]:
    """What truncation left out of each side, one line each."""
    return [f"{side}: {cut}" for side, cut in known.cut.items() if str(cut)]


def label_counts(known: Facts) -> str:
    """How many training samples each label has, the most frequent first; of many labels both ends."""
    pairs = sorted(zip(known.labels, known.counts, strict=True), key=lambda pair: -pair[1])
    told = [f"{label} {count:,}" for label, count in pairs]
    if len(told) > _LABELS:
        told = [*told[: _LABELS // 2], f"{len(told) - _LABELS} more", *told[-_LABELS // 2 :]]
    return ", ".join(told)


def read(folder: Path) -> Facts:
    """The facts of a prepared folder. Raises DamagedFile."""
    file, hint = folder / FILE, f"move {folder} away: its data is prepared again"
    known = strict_json.read(file, Facts, hint)
    if not known.samples.get("train"):
        raise strict_json.damage(file, "samples.train: missing", hint)
    return known


def of_run(folder: Path) -> Facts:
    """The facts in a run's folder. Raises DamagedFile."""
    return strict_json.read(folder / FILE, Facts, "launcher run writes it again")


def guess(recipe: Recipe) -> Facts:
    """What stands in for the facts before the data is prepared: the vocabulary as far as it is known, two labels, and
    for a task without tokens a shape that its samples may have."""
    task = plugins.task(recipe.inner_task)
    vocab, shape = (vocabulary_size.size(recipe), ()) if task.tokenized else (0, task.sample_shape(recipe.inner_task))
    return Facts(
        digest="", vocab_size=vocab, pad_token_id=0, mask_token_id=0, special_ids=[], labels=["0", "1"],
        longest=recipe.data.max_length if not shape else 1, samples={}, tokens={}, baseline={}, shape=shape,
    )  # fmt: skip


def total_steps(recipe: Recipe, facts: Facts) -> int:
    """Optimiser steps of the run; `epochs` only sets their number."""
    if recipe.train.steps is not None:
        return recipe.train.steps
    assert recipe.train.epochs is not None
    return max(1, math.ceil(recipe.train.epochs * facts.samples["train"] / recipe.train.global_batch))


def steps_of(recipe: Recipe, facts: Facts | None) -> int | None:
    """Optimiser steps of the run, where they are known."""
    return total_steps(recipe, facts) if facts else recipe.train.steps
