"""The share of each label that is held out for validation: by a hash of the content, as where labels play no part.

Of each label the rows of the lowest hashes are held out, at least one and never all. Rows of equal content have equal
hashes and count once; where their labels differ, all of them go by the first of these labels, so that equal content is
never on both sides.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.config.atomic_files import flush
from launcher.config.format import plural
from launcher.config.recipe import Data, Fraction
from launcher.data import INPUTS, Column
from launcher.prepare.source_shards import hashes

_FEW = 10
"""Rows of a label, below which its share in the validation says little."""

_SCHEMA = pa.schema({"hash": pa.uint64(), "label": pa.large_string()})


@dataclass(frozen=True)
class Strata:
    """`bounds`: of each label the hash from which rows stay on the training side; `labels`: of contents that stand in
    the data with several labels (their hashes) the one that they go by; `counts`: contents by label."""

    bounds: dict[str, int]
    labels: dict[int, str]
    counts: dict[str, int]

    def held_out(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """Which rows of a batch of the training source belong to validation, shape (rows,)."""
        found = hashes(batch, INPUTS)[:, 0].tolist()
        labels = batch.column("label").to_pylist()
        rows = zip(found, labels, strict=True)
        return np.array([key < self.bounds.get(self.labels.get(key, label), 0) for key, label in rows], dtype=bool)

    def notes(self) -> list[str]:
        """What the user should know of labels with few rows."""
        few = {label: count for label, count in self.counts.items() if count < _FEW}
        if not few:
            return []
        label = min(few, key=lambda name: (few[name], name))
        what = f"{plural(len(few), 'label')} with fewer than {_FEW} different rows, the fewest: {label!r} with"
        return [f"{what} {few[label]} (validation says little of them; a label with a single row is not held out)"]


def stratified(data: Data, columns: Sequence[str]) -> bool:
    """Whether each label gives its own share to validation. `columns`: what the task reads."""
    one = any(column == "label" and not isinstance(column, Column) for column in columns)  # neither lists nor numbers
    return isinstance(data.validation, Fraction) and data.validation.stratify == "auto" and one


def rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Hash and label of each row of a training source."""
    columns = [pa.array(hashes(batch, INPUTS)[:, 0]), batch.column("label").cast(pa.large_string())]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def save(file: Path, batches: Sequence[pa.RecordBatch]) -> None:
    """Write such rows to a file, whole or not there."""
    aside = file.with_name(f".{uuid.uuid4().hex}.{file.name}")
    try:
        with pa.ipc.new_stream(aside, _SCHEMA) as writer:
            for batch in batches:
                writer.write_batch(batch)
        flush(aside)
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def of(files: Sequence[Path], fraction: float) -> Strata:
    """The strata of all rows in such files."""
    labels: dict[int, str] = {}
    several = set[int]()
    for key, label in _rows(files):
        first = labels.setdefault(key, label)
        if label != first:
            several.add(key)
            labels[key] = min(first, label)
    by_label: dict[str, list[int]] = {}
    for key, label in labels.items():
        by_label.setdefault(label, []).append(key)
    return Strata(
        {label: _bound(sorted(keys), fraction) for label, keys in by_label.items()},
        {key: labels[key] for key in several},
        {label: len(keys) for label, keys in by_label.items()},
    )


def _bound(keys: Sequence[int], fraction: float) -> int:
    """The first hash that is not held out."""
    return keys[min(max(1, round(fraction * len(keys))), len(keys) - 1)]


def _rows(files: Sequence[Path]) -> Iterator[tuple[int, str]]:
    for file in files:
        with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
            for batch in stream:
                yield from zip(batch.column("hash").to_pylist(), batch.column("label").to_pylist(), strict=True)
