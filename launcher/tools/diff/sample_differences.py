"""The first prepared sample in which the data of two runs differ, and its row."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from launcher.config.errors import UserError, one_line
from launcher.prepare import sample_sources
from launcher.prepare.prepared_samples import PreparedSamples
from launcher.tools.seen import step_samples
from launcher.tools.seen.run_data import RunData

_AT_ONCE = 4096
"""Samples that are compared at once."""


@dataclass(frozen=True)
class SampleDifferences:
    """The training samples in which prepared data differ.

    `counts`: samples of each run. `differing`: number of differing samples among those that both have; `first`: the id
    of the first one. `tokenizers`: whether the tokenizers differ, so that most samples do.
    """

    counts: tuple[int, int]
    differing: int
    first: int | None
    tokenizers: bool


def compare(one: RunData, other: RunData) -> SampleDifferences | None:
    """Compare the prepared training samples of two runs; None: the cache does not have them."""
    if not (one.prepared.is_dir() and other.prepared.is_dir()):
        return None
    here, there = PreparedSamples(one.prepared, "train"), PreparedSamples(other.prepared, "train")
    if one.prepared == other.prepared:
        return SampleDifferences((len(here), len(there)), 0, None, tokenizers=False)
    differing, first = 0, None
    for start in range(0, min(len(here), len(there)), _AT_ONCE):
        stop = min(start + _AT_ONCE, len(here), len(there))
        tables = here.table(start, stop), there.table(start, stop)
        if not tables[0].equals(tables[1]):
            numbers = [n for n in range(stop - start) if not _equal(tables, n)]
            differing += len(numbers)
            first = first if first is not None or not numbers else start + numbers[0]
    texts = [file.read_bytes() if file.is_file() else b"" for file in (_words(one), _words(other))]
    return SampleDifferences((len(here), len(there)), differing, first, texts[0] != texts[1])


def _equal(tables: tuple[pa.Table, pa.Table], number: int) -> bool:
    return bool(tables[0].slice(number, 1).equals(tables[1].slice(number, 1)))


def _words(run: RunData) -> Path:
    return run.prepared / "tokenizer" / "tokenizer.json"


def rows_of(one: RunData, other: RunData, id: int) -> str:
    """Return the rows of a sample, in the sources of both runs as far as they are still those of the run."""
    places = [_place(run, id) for run in (one, other)]
    known = list(dict.fromkeys(place for place in places if place))
    return " / ".join(known) or "its row is not known: neither source is the one of its run any more"


def _place(run: RunData, id: int) -> str:
    if run.changed:
        return ""
    try:
        with sample_sources.opened(run.recipe, run.facts, run.prepared) as sources:
            return one_line("; ".join(part.place for part in sources.documents([id])[id]))
    except UserError:
        return ""


def first_row(one: RunData, other: RunData, step: int) -> tuple[str, int | None]:
    """Return what differs first in the samples of a step that both runs have: `order`, `row`, `draws` (masks or other
    augmentation) or nothing (empty), with the id of the first differing sample."""
    here, there = step_samples.of(one, step), step_samples.of(other, step)
    if not (np.array_equal(here.ids, there.ids) and np.array_equal(here.epochs, there.epochs)):
        return "order", None
    rows = zip(*(PreparedSamples(run.prepared, "train").rows(here.ids) for run in (one, other)), strict=True)
    for id, pair in zip(here.ids.tolist(), rows, strict=True):
        if not _same_arrays(*pair):
            return "row", id
    for id, mine, theirs in zip(here.ids.tolist(), here.samples, there.samples, strict=True):
        if not _same_arrays(mine, theirs):
            return "draws", id
    return "", None


def _same_arrays(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)  # type: ignore[arg-type]
