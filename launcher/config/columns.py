"""Columns of rows, as tasks require them and sources provide them."""

from collections.abc import Sequence
from typing import Literal


class Column(str):
    """The name of a canonical column whose values are not of its default type. `wants`: `number` for a label that is a
    number instead of a class name, or a list of names."""

    wants: Literal["number", "names"]

    def __new__(cls, name: str, wants: Literal["number", "names"]) -> "Column":
        column = super().__new__(cls, name)
        column.wants = wants
        return column

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return Column, (str(self), self.wants)


class KeptColumn(str):
    """A column of the source that is passed through unchanged beside the canonical ones. `name`: its name there; `*`:
    all columns."""

    name: str

    def __new__(cls, name: str) -> "KeptColumn":
        column = super().__new__(cls, f"kept {name}")
        column.name = name
        return column

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return KeptColumn, (self.name,)


EVERY = KeptColumn("*")
KEPT = "kept"
"""Key of a row that holds the kept columns as a map."""


def resolved(columns: Sequence[str], available: Sequence[str]) -> list[str]:
    """The columns, with EVERY replaced by each column of the table."""
    return [one for column in columns for one in (map(KeptColumn, available) if column == EVERY else (column,))]
