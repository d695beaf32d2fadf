"""The samples of a prepared folder, read by number from memory-mapped Arrow files."""

import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.data import Row


class PreparedSamples:
    """The samples of one side (train or validation). Only the requested samples are held in memory."""

    def __init__(self, folder: Path, side: str):
        with pa.memory_map(str(folder / f"{side}.arrow")) as file, pa.ipc.open_stream(file) as stream:
            self._open(stream.read_all())

    @classmethod
    def of(cls, table: pa.Table) -> "PreparedSamples":
        """Wrap the samples of an Arrow table in memory."""
        samples = cls.__new__(cls)
        samples._open(table)
        return samples

    def _open(self, table: pa.Table) -> None:
        self._table, self._batches = table, [batch for batch in table.to_batches() if batch.num_rows]
        self._starts = np.array([0, *itertools.accumulate(batch.num_rows for batch in self._batches)])

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def lengths(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of tokens of these samples, shape (len(ids),)."""
        wanted, places, rows = self._find(ids)
        lengths = np.empty(len(wanted), dtype=np.int64)
        by_batch = np.argsort(places, kind="stable")
        begins = np.flatnonzero(np.diff(places[by_batch], prepend=-1))
        for of_batch in np.split(by_batch, begins[1:]) if len(wanted) else []:
            lengths[of_batch] = self._lengths[places[of_batch[0]]][rows[of_batch]]
        return lengths

    @cached_property
    def _lengths(self) -> list[NDArray[Any]]:
        """The lengths of each batch, in the memory of the file."""
        return [_numpy(batch.column("length")) for batch in self._batches]

    def table(self, start: int, stop: int) -> pa.Table:
        """Return the samples [start, stop)."""
        return self._table.slice(start, stop - start)

    def rows(self, ids: Sequence[int] | NDArray[np.int64]) -> list[Row]:
        """Return these samples, in this order, with lists as numpy arrays."""
        if not len(ids):
            return []
        _, places, rows = self._find(ids)
        taken = [self._batches[place].slice(row, 1) for place, row in zip(places.tolist(), rows.tolist(), strict=True)]
        table = pa.Table.from_batches(taken, self._table.schema)
        columns = {name: _values(table[name].combine_chunks()) for name in table.column_names}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _find(self, ids: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Return the numbers of these samples as an array, the batches that have them, and their rows in these. Raises
        IndexError for a number that no sample has."""
        wanted = np.asarray(ids, dtype=np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"samples {wanted.min()} to {wanted.max()} of {len(self)}")
        places = np.searchsorted(self._starts, wanted, side="right") - 1
        return wanted, places, wanted - self._starts[places]


def _values(column: pa.Array) -> Sequence[object]:
    """Return the values of a column. Lists become numpy arrays."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return list(_numpy(column))
    cuts = np.cumsum(_numpy(column.value_lengths()))[:-1]
    return np.split(_numpy(column.flatten()), cuts)


def _numpy(values: pa.Array) -> NDArray[Any]:
    """Return the values of a column. Numbers, booleans and texts do not take pyarrow's own way, which may import
    pandas."""
    kind = values.type
    if values.null_count == 0:
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return np.from_dlpack(values)
        if pa.types.is_boolean(kind):
            return np.from_dlpack(values.cast(pa.uint8())).view(np.bool_)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(values.to_pylist(), dtype=object)
    return np.asarray(values.to_numpy(zero_copy_only=False))
