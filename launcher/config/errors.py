"""Mistakes of the user: collected, told all at once, never as a traceback."""

import errno
import os
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


def first_line(error: BaseException) -> str:
    """The first line of an error's text that is not blank, or the error's type where it has no text."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)


_UNUSABLE = (
    errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EROFS, errno.ENXIO, errno.EINVAL,
)  # fmt: skip
"""What is wrong with a path rather than with the program."""


def of_path(error: BaseException) -> str | None:
    """A line about a path that cannot be used as a command would; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in _UNUSABLE or not isinstance(error.filename, str | bytes):
        return None
    what = (error.strerror or "cannot be used").lower()
    return f"{shown(os.fsdecode(error.filename))}: cannot be used: {what}"


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
