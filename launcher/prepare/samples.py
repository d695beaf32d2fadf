"""The samples of a prepared folder, read by number from memory-mapped Arrow files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]


class Samples:
    """One side of a prepared folder. Opening it reads no sample; a rank holds what it asks for, and no more."""

    def __init__(self, folder: Path, side: str):
        import datasets

        self._open(datasets.Dataset.from_file(str(folder / f"{side}.arrow")))

    @classmethod
    def of(cls, table: Any) -> "Samples":
        """The samples of an Arrow table in memory."""
        import datasets

        made = cls.__new__(cls)
        made._open(datasets.Dataset(table))
        return made

    def _open(self, data: Any) -> None:
        self._data = data.with_format("arrow")
        self._lengths = self._data.select_columns("length")

    def __len__(self) -> int:
        return len(self._data)

    def lengths(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of these samples, shape (len(ids),)."""
        found: NDArray[np.int64] = self._lengths[np.asarray(ids).tolist()]["length"].to_numpy().astype(np.int64)
        return found

    def rows(self, ids: Sequence[int] | NDArray[np.int64]) -> list[Row]:
        """These samples, in this order; lists as numpy arrays."""
        if not len(ids):
            return []
        table = self._data[np.asarray(ids).tolist()]
        columns = {name: _split(table[name].combine_chunks()) for name in table.column_names}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _split(column: Any) -> Sequence[Any]:
    """A column's values one by one."""
    if not hasattr(column, "value_lengths"):
        return list(column.to_numpy(zero_copy_only=False))
    cuts = np.cumsum(column.value_lengths().to_numpy(zero_copy_only=False))[:-1]
    return np.split(column.flatten().to_numpy(zero_copy_only=False), cuts)
