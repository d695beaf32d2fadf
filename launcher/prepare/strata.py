"""Stratified validation: the share of each label that is held out, by a hash of the content.

The rows of a label with the lowest hashes are held out: at least one, and never all. Rows of equal content have equal
hashes and count once. If equal content has several labels, it counts for the first of these labels, so that it is never
on both sides.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.config.atomic_files import write_aside
from launcher.config.format import plural
from launcher.config.recipe import Data, Fraction
from launcher.data import INPUTS, Column
from launcher.prepare.row_batches import hashes
from launcher.prepare.shard_files import open_batches

_FEW_ROWS = 10
"""Number of rows of a label below which validation says little about it."""

_SCHEMA = pa.schema({"hash": pa.uint64(), "label": pa.large_string()})


@dataclass(frozen=True)
class Strata:
    """The split of each label.

    `bounds`: label -> the lowest hash on the training side. `labels`: hash -> the label that counts, for content with
    several labels. `counts`: label -> number of different contents.
    """

    bounds: dict[str, int]
    labels: dict[int, str]
    counts: dict[str, int]

    def held_out(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """Return which rows of a training source are held out for validation, shape (rows,)."""
        found = hashes(batch, INPUTS)[:, 0].tolist()
        rows = zip(found, batch.column("label").to_pylist(), strict=True)
        return np.array([key < self.bounds.get(self.labels.get(key, label), 0) for key, label in rows], dtype=bool)

    def notes(self) -> list[str]:
        """Return notes for the user on labels with few rows; empty: there are none."""
        few = {label: count for label, count in self.counts.items() if count < _FEW_ROWS}
        if not few:
            return []
        label = min(few, key=lambda name: (few[name], name))
        what = f"{plural(len(few), 'label')} with fewer than {_FEW_ROWS} different rows, the fewest: {label!r} with"
        return [f"{what} {few[label]} (validation says little of them; a label with a single row is not held out)"]


def stratified(data: Data, columns: Sequence[str]) -> bool:
    """Return whether the validation split holds out the same fraction of each label.

    It does if `stratify` is auto and each row of the task has one label. `columns`: the columns that the task requires.
    """
    one = any(column == "label" and not isinstance(column, Column) for column in columns)  # neither lists nor numbers
    return isinstance(data.validation, Fraction) and data.validation.stratify == "auto" and one


def hashed_labels(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the hash and the label of each row of a training source."""
    columns = [pa.array(hashes(batch, INPUTS)[:, 0]), batch.column("label").cast(pa.large_string())]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def save(file: Path, batches: Sequence[pa.RecordBatch]) -> None:
    """Write the results of `hashed_labels` to a file atomically."""
    with write_aside(file) as aside, pa.ipc.new_stream(aside, _SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)


def split(files: Sequence[Path], fraction: float) -> Strata:
    """Return the split of all rows in files that `save` wrote."""
    labels: dict[int, str] = {}
    ambiguous = set[int]()
    for key, label in _rows(files):
        first = labels.setdefault(key, label)
        if label != first:
            ambiguous.add(key)
            labels[key] = min(first, label)
    by_label: dict[str, list[int]] = {}
    for key, label in labels.items():
        by_label.setdefault(label, []).append(key)
    return Strata(
        {label: _bound(sorted(keys), fraction) for label, keys in by_label.items()},
        {key: labels[key] for key in ambiguous},
        {label: len(keys) for label, keys in by_label.items()},
    )


def _bound(keys: Sequence[int], fraction: float) -> int:
    """Return the lowest hash that is not held out."""
    return keys[min(max(1, round(fraction * len(keys))), len(keys) - 1)]


def _rows(files: Sequence[Path]) -> Iterator[tuple[int, str]]:
    for file in files:
        for batch in open_batches(file):
            yield from zip(batch.column("hash").to_pylist(), batch.column("label").to_pylist(), strict=True)
