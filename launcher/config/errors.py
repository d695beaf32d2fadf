"""Errors of the user: collected, reported together, and never shown as a traceback."""

import errno
import os
from collections.abc import Sequence
from typing import NamedTuple

_LONGEST = 400
"""Maximum number of characters of a text in a message."""


def one_line(text: str) -> str:
    """Escape line breaks and all other characters that a terminal would interpret."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shown(text: str) -> str:
    """Shorten a user's text to one line for a message."""
    return one_line(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ...")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that is not blank; without one, the name of the error's type."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)


_UNUSABLE = (
    errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EROFS, errno.ENXIO, errno.EINVAL,
)  # fmt: skip
"""Error numbers that are caused by the path, not by the program."""


def of_path(error: BaseException) -> str | None:
    """Return a message about the path of an OSError; None for an error that no path causes."""
    if not isinstance(error, OSError) or error.errno not in _UNUSABLE or not isinstance(error.filename, str | bytes):
        return None
    what = (error.strerror or "cannot be used").lower()
    return f"{shown(os.fsdecode(error.filename))}: cannot be used: {what}"


class Problem(NamedTuple):
    """One mistake. `key`: its key in the recipe; messages begin with the key's file and line. `what`: description."""

    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.key}: {self.what}"


class UserError(Exception):
    """The user's input is wrong. `problems` has one entry for each mistake. Commands exit with 2."""

    def __init__(self, problems: str | Problem | Sequence[str | Problem]):
        one = isinstance(problems, str | Problem)
        self.problems: list[str | Problem] = [problems] if one else list(problems)  # type: ignore[list-item]
        super().__init__("\n".join(one_line(line) for problem in self.problems for line in str(problem).split("\n")))

    def __reduce__(self) -> tuple[type["UserError"], tuple[list[str | Problem]]]:
        return type(self), (self.problems,)
