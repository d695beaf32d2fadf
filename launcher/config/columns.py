"""The columns of rows, as tasks ask for them and sources give them."""

from typing import Any, Literal


class Column(str):
    """A canonical column by its name. `wants`: what a task needs in it where it is not the usual: a number in the place
    of a label's name, or a list of names."""

    wants: Literal["number", "names"]

    def __new__(cls, name: str, wants: Literal["number", "names"]) -> "Column":
        made = super().__new__(cls, name)
        made.wants = wants
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Column, (str(self), self.wants)
