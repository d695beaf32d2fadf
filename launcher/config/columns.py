"""The columns of rows, as tasks ask for them and sources give them."""

from collections.abc import Sequence
from typing import Literal


class Column(str):
    """A canonical column by its name. `wants`: what a task needs in it where it is not the usual: a number in the place
    of a label's name, or a list of names."""

    wants: Literal["number", "names"]

    def __new__(cls, name: str, wants: Literal["number", "names"]) -> "Column":
        made = super().__new__(cls, name)
        made.wants = wants
        return made

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return Column, (str(self), self.wants)


class KeptColumn(str):
    """A column that a source has under this `name`, wanted as it stands there, beside the canonical ones; `*`: all."""

    name: str

    def __new__(cls, name: str) -> "KeptColumn":
        made = super().__new__(cls, f"kept {name}")
        made.name = name
        return made

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return KeptColumn, (self.name,)


EVERY = KeptColumn("*")
KEPT = "kept"
"""The key of a row under which its kept columns stand, as a map."""


def resolved(columns: Sequence[str], there: Sequence[str]) -> list[str]:
    """The columns, with each one that a table has in the place of EVERY."""
    return [one for column in columns for one in (map(KeptColumn, there) if column == EVERY else (column,))]
