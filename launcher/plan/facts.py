"""What preparation found out about the data: the part of a prepared folder that plans and tasks need.
Before there is any, a guess stands in."""

import json
import math
from pathlib import Path
from typing import Literal

from launcher.config import kinds
from launcher.config.recipe import Recipe
from launcher.config.types import Strict
from launcher.plan import vocabulary

Side = Literal["train", "validation"]


class Facts(Strict):
    """`digest` names the content; `documents`, `samples`, `tokens` by side; `baseline` is what frequencies alone would
    reach. `counts`: training samples by label, in the order of `labels`; `sources`: by source, in their order;
    `lengths`: by their tokens. `left_out`: rows that gave no sample, by reason; `token_ids`: of the tokens that the
    task names; `end_token_id`: what stands after a text. `shape`: of one sample where it is no text (it has no
    vocabulary then, and a length of 1), such as (channels, height, width)."""

    digest: str
    vocab_size: int
    pad_token_id: int
    mask_token_id: int | None
    special_ids: list[int]
    end_token_id: int | None = None
    labels: list[str]
    longest: int
    samples: dict[str, int]
    tokens: dict[str, int]
    baseline: dict[str, float]
    documents: dict[str, int] = {}
    counts: list[int] = []
    sources: dict[str, int] = {}
    lengths: dict[int, int] = {}
    left_out: dict[str, int] = {}
    notes: list[str] = []
    token_ids: dict[str, int] = {}
    shape: tuple[int, ...] = ()


def read(folder: Path) -> Facts:
    """The facts of a prepared folder."""
    return Facts.model_validate(json.loads((folder / "facts.json").read_text(encoding="utf-8")))


def guess(recipe: Recipe) -> Facts:
    """What stands in for the facts before the data is prepared: the vocabulary as far as it is known, two labels, and
    for a task without tokens a shape that its samples may have."""
    task = kinds.of("tasks", recipe.inner_task).Task
    vocab, shape = (vocabulary.size(recipe), ()) if task.tokenized else (0, task.shape(recipe.inner_task))
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
