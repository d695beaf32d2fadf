"""The samples of a prepared folder, read by number from memory-mapped Arrow files."""

import itertools
from collections.abc import Sequence
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
        lengths: NDArray[np.int64] = _numpy(self._take(ids, ["length"])["length"].combine_chunks()).astype(np.int64)
        return lengths

    def table(self, start: int, stop: int) -> pa.Table:
        """Return the samples [start, stop)."""
        return self._table.slice(start, stop - start)

    def rows(self, ids: Sequence[int] | NDArray[np.int64]) -> list[Row]:
        """Return these samples, in this order, with lists as numpy arrays."""
        if not len(ids):
            return []
        table = self._take(ids, self._table.column_names)
        columns = {name: _values(table[name].combine_chunks()) for name in table.column_names}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _take(self, ids: Sequence[int] | NDArray[np.int64], columns: list[str]) -> pa.Table:
        """Return some columns of these samples, in this order. Raises IndexError for a number that no sample has."""
        wanted = np.asarray(ids, dtype=np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"samples {wanted.min()} to {wanted.max()} of {len(self)}")
        places = np.searchsorted(self._starts, wanted, side="right") - 1
        rows = wanted - self._starts[places]
        found = [self._batches[place].slice(row, 1) for place, row in zip(places.tolist(), rows.tolist(), strict=True)]
        return pa.Table.from_batches(found, self._table.schema).select(columns)


def _values(column: pa.Array) -> Sequence[object]:
    """Return the values of a column. Lists become numpy arrays."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return list(_numpy(column))
    cuts = np.cumsum(_numpy(column.value_lengths()))[:-1]
    return np.split(_numpy(column.flatten()), cuts)


def _numpy(values: pa.Array) -> NDArray[Any]:
    """Return the values of a column. Plain numbers do not take pyarrow's own way, which imports pandas."""
    kind = values.type
    if values.null_count == 0 and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return np.from_dlpack(values)
    return np.asarray(values.to_numpy(zero_copy_only=False))
