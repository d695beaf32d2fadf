"""Facts about prepared data that plans and tasks depend on. Before the data is prepared, a guess replaces them."""

import math
from pathlib import Path

from pydantic import model_validator

from launcher.config import paths, plugins, strict_json
from launcher.config.base_model import Strict
from launcher.config.format import plural
from launcher.config.recipe import Recipe
from launcher.config.strict_json import Count
from launcher.plan import expected_vocabulary

_LABELS = 20
"""Maximum number of labels that are listed with their counts."""


class TruncationCounts(Strict):
    """Counts of what `data.max_length` cut from the training or from the validation data."""

    tokens: Count
    """Maximum number of tokens of a row, special tokens included."""
    of: Count
    """Number of rows."""
    rows: Count = 0
    """Number of rows that were cut."""
    words: Count = 0
    """Number of words beyond the cuts."""
    labels: Count = 0
    """Number of labels other than O beyond the cuts."""
    targets: Count = 0
    """Number of targets that were cut."""
    questions: Count = 0
    """Number of questions that were cut."""

    @property
    def often(self) -> bool:
        """Whether so much is cut that a plan warns of it: a hundredth of the rows, or any label other than O."""
        return self.labels > 0 or max(self.rows, self.targets, self.questions) >= 0.01 * self.of > 0

    def __str__(self) -> str:
        """Return the counts as text; empty: nothing was cut.

        For example, `1,083 of 1,583 rows are cut at 128 tokens (2,040 words, 311 labels other than O)`.
        """
        lost = f" ({plural(self.words, 'word')}, {plural(self.labels, 'label')} other than O)" if self.words else ""
        parts = [f"{self.rows:,} of {self.of:,} rows are cut at {self.tokens} tokens{lost}"] if self.rows else []
        parts += [f"{self.targets:,} of {self.of:,} targets are cut"] if self.targets else []
        parts += [f"{self.questions:,} of {self.of:,} questions are cut"] if self.questions else []
        return ", ".join(parts)


class Facts(Strict):
    """Facts about prepared data. A side is train, validation or test."""

    digest: str
    """Digest of the content."""
    vocab_size: Count
    """Size of the vocabulary; 0: samples have no tokens."""
    pad_token_id: Count
    """Id of the padding token."""
    mask_token_id: Count | None
    """Id of the mask token."""
    special_ids: list[Count]
    """Ids of all special tokens."""
    begin_token_id: Count | None = None
    """Id of the token before a text."""
    end_token_id: Count | None = None
    """Id of the token after a text."""
    labels: list[str]
    """Names of the labels."""
    longest: Count
    """Maximum number of tokens of a sample; 1: samples have no tokens."""
    samples: dict[str, Count]
    """Number of samples by side."""
    tokens: dict[str, Count]
    """Number of tokens by side."""
    baseline: dict[str, float]
    """Metrics that label frequencies alone would reach."""
    documents: dict[str, Count] = {}
    """Number of documents by side."""
    counts: list[Count] = []
    """Training samples of each label, in the order of `labels`."""
    sources: dict[str, Count] = {}
    """Training samples by source of a mixture."""
    lengths: dict[Count, Count] = {}
    """Training samples by number of tokens."""
    left_out: dict[str, Count] = {}
    """Rows that gave no sample, by reason."""
    notes: list[str] = []
    """Remarks of the preparation."""
    cut: dict[str, TruncationCounts] = {}
    """What truncation cut, by side."""
    test_digest: str = ""
    """Digest of a test set with sources of its own, which is the name of its prepared folder."""
    test_baseline: dict[str, float] = {}
    """Metrics that label frequencies alone would reach on the test samples."""
    token_ids: dict[str, Count] = {}
    """Ids of the tokens that the task names."""
    shape: tuple[Count, ...] = ()
    """Shape of a sample without tokens, such as (channels, height, width)."""

    @model_validator(mode="after")
    def _check_sides(self) -> "Facts":
        if missing := self.samples.keys() - self.tokens.keys():
            raise ValueError(f"tokens: {strict_json.shown(min(missing))} is missing, which has samples")
        return self


def cut_notes(known: Facts, often: bool = True) -> list[str]:
    """Return a note for each side of the data from which truncation cut something. `often`: also if it cut so much that
    a plan warns of it."""
    return [f"{side}: {cut}" for side, cut in known.cut.items() if str(cut) and (often or not cut.often)]


def label_counts(known: Facts) -> str:
    """Return the number of training samples of each label as text, in descending order.

    If there are many labels, only the largest and the smallest are listed.
    """
    pairs = sorted(zip(known.labels, known.counts, strict=True), key=lambda pair: -pair[1])
    parts = [f"{label} {count:,}" for label, count in pairs]
    if len(parts) > _LABELS:
        parts = [*parts[: _LABELS // 2], f"{len(parts) - _LABELS} more", *parts[-_LABELS // 2 :]]
    return ", ".join(parts)


def read(folder: Path) -> Facts:
    """Read the facts of a prepared folder. Raises DamagedFile."""
    file, hint = folder / paths.FACTS, f"move {folder} away: its data is prepared again"
    known = strict_json.read(file, Facts, hint)
    if not known.samples.get("train"):
        raise strict_json.damage(file, "samples.train: missing", hint)
    return known


def of_run(folder: Path) -> Facts:
    """Read the facts of a run folder. Raises DamagedFile."""
    return strict_json.read(folder / paths.FACTS, Facts, "launcher run writes it again")


def guess(recipe: Recipe) -> Facts:
    """Return facts for use before the data is prepared.

    The vocabulary size is that of the recipe or its tokenizer, if known. There are two labels, and for a task without
    tokens a possible shape.
    """
    task = plugins.task(recipe.inner_task)
    vocab, shape = (
        (expected_vocabulary.size(recipe), ()) if task.tokenized else (0, task.sample_shape(recipe.inner_task))
    )
    return Facts(
        digest="", vocab_size=vocab, pad_token_id=0, mask_token_id=0, special_ids=[], labels=["0", "1"],
        longest=recipe.data.max_length if not shape else 1, samples={}, tokens={}, baseline={}, shape=shape,
    )  # fmt: skip


def total_steps(recipe: Recipe, facts: Facts) -> int:
    """Return the optimiser steps of the run."""
    if recipe.train.steps is not None:
        return recipe.train.steps
    assert recipe.train.epochs is not None
    return max(1, math.ceil(recipe.train.epochs * facts.samples["train"] / recipe.train.global_batch))


def steps_of(recipe: Recipe, facts: Facts | None) -> int | None:
    """Return the optimiser steps of the run; None: not known before the data is prepared."""
    return total_steps(recipe, facts) if facts else recipe.train.steps
