"""Checks of label names over a whole data set: names that are one label written in two ways."""

import re
from collections.abc import Collection
from pathlib import Path

from launcher.config.errors import Problem, UserError

_FLAGS = {"true": "1", "false": "0"}


def check(found: Collection[str], key: str) -> None:
    """Raises UserError for every two names that differ only by white space, by the decimals of a whole number, or as
    `true` and `1` do."""
    same: dict[str, list[str]] = {}
    for name in sorted(found):
        same.setdefault(_canonical(name), []).append(name)
    wrong = [_what(names) for names in same.values() if len(names) > 1]
    if wrong:
        raise UserError([Problem(key, what) for what in wrong])


def check_prepared(labels: Collection[str], key: str, folder: Path) -> None:
    """Raises UserError for a label that an earlier version accepted and that stands for no label: -100 or a blank."""
    if wrong := [name for name in labels if not name.strip() or name == "-100"]:
        what = f"the data in {folder} was prepared with a class {wrong[0]!r}, which is no label"
        raise UserError(Problem(key, f"{what} (move that folder away: the data is prepared again)"))


def _canonical(name: str) -> str:
    """The same for all spellings of a label."""
    plain = " ".join(name.split())
    if re.fullmatch(r"-?\d+\.0+", plain):
        plain = plain.partition(".")[0]
    flag = plain.casefold()
    return _FLAGS.get(flag, plain)


def _what(names: list[str]) -> str:
    listed = " and ".join(map(repr, names))
    why = "differ only by white space" if len({"".join(name.split()) for name in names}) == 1 else "mean the same"
    return f"{listed} are two labels here, and {why} (write them alike)"
