"""Columns of rows, as tasks require them and sources provide them."""

from collections.abc import Sequence
from typing import Literal


class Column(str):
    """Name of a canonical column whose values are not of the column's default type.

    `wants`: `number` for a label that is a number in place of a class name, `names` for a list of names.
    """

    wants: Literal["number", "names"]

    def __new__(cls, name: str, wants: Literal["number", "names"]) -> "Column":
        column = super().__new__(cls, name)
        column.wants = wants
        return column

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return Column, (str(self), self.wants)


class KeptColumn(str):
    """A source column that is passed through unchanged. `name`: its name in the source; `*`: every column."""

    name: str

    def __new__(cls, name: str) -> "KeptColumn":
        column = super().__new__(cls, f"kept {name}")
        column.name = name
        return column

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return KeptColumn, (self.name,)


EVERY = KeptColumn("*")
KEPT = "kept"
"""Key under which a row holds its kept columns, as a map."""


def resolved(columns: Sequence[str], available: Sequence[str]) -> list[str]:
    """Return the columns, with EVERY replaced by a KeptColumn for each of the `available` ones."""
    return [one for column in columns for one in (map(KeptColumn, available) if column == EVERY else (column,))]
