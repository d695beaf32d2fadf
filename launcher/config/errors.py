"""Mistakes of the user: collected, told all at once, never as a traceback."""

from collections.abc import Sequence
from typing import NamedTuple

_LONGEST = 400
"""Characters of a text that a message shows."""


def one_line(text: str) -> str:
    """A text with its line breaks and whatever else a terminal would act on as escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shown(text: str) -> str:
    """A text of the user in a message: one line, the end of a long one left out."""
    return one_line(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ...")


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
        super().__init__("\n".join(one_line(line) for problem in self.problems for line in str(problem).split("\n")))

    def __reduce__(self) -> tuple[type["UserError"], tuple[list[str | Problem]]]:
        return type(self), (self.problems,)
