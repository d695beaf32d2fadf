"""Mistakes of the user: collected, told all at once, never as a traceback."""

from collections.abc import Sequence
from typing import NamedTuple


class Problem(NamedTuple):
    """One mistake: the recipe key it belongs to (its file and line are put before it), and what is wrong."""

    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.key}: {self.what}"


class UserError(Exception):
    """The user's input is wrong. `problems` holds one entry for each mistake; commands exit with 2."""

    def __init__(self, problems: str | Problem | Sequence[str | Problem]):
        one = isinstance(problems, str | Problem)
        self.problems: list[str | Problem] = [problems] if one else list(problems)  # type: ignore[list-item]
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type["UserError"], tuple[list[str | Problem]]]:
        return type(self), (self.problems,)
