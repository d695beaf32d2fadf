"""The samples of a prepared folder, read by number from memory-mapped Arrow files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.data import Row

if TYPE_CHECKING:
    import datasets


class PreparedSamples:
    """The samples of one side (train or validation). Only the requested samples are held in memory."""

    def __init__(self, folder: Path, side: str):
        import datasets

        self._open(datasets.Dataset.from_file(str(folder / f"{side}.arrow")))

    @classmethod
    def of(cls, table: pa.Table) -> "PreparedSamples":
        """Wrap the samples of an Arrow table in memory."""
        import datasets

        samples = cls.__new__(cls)
        samples._open(datasets.Dataset(table))
        return samples

    def _open(self, dataset: "datasets.Dataset") -> None:
        self._dataset = dataset.with_format("arrow")
        self._lengths = self._dataset.select_columns("length")

    def __len__(self) -> int:
        return len(self._dataset)

    def lengths(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of tokens of these samples, shape (len(ids),)."""
        lengths: NDArray[np.int64] = self._lengths[np.asarray(ids).tolist()]["length"].to_numpy().astype(np.int64)
        return lengths

    def table(self, start: int, stop: int) -> pa.Table:
        """Return the samples [start, stop)."""
        return self._dataset[start:stop]

    def rows(self, ids: Sequence[int] | NDArray[np.int64]) -> list[Row]:
        """Return these samples, in this order, with lists as numpy arrays."""
        if not len(ids):
            return []
        table = self._dataset[np.asarray(ids).tolist()]
        columns = {name: _values(table[name].combine_chunks()) for name in table.column_names}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _values(column: pa.Array) -> Sequence[object]:
    """Return the values of a column. Lists become numpy arrays."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return list(column.to_numpy(zero_copy_only=False))
    cuts = np.cumsum(column.value_lengths().to_numpy(zero_copy_only=False))[:-1]
    return np.split(column.flatten().to_numpy(zero_copy_only=False), cuts)
