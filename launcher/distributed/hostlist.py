"""Parse lists of nodes in Slurm's notation without Slurm, because a container has no scontrol."""

import itertools
import re

_NAME = re.compile(r"(?:[^\s,\[\]]|\[[^\]]*\])+")
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)
_MAX_RANGE = 65536
"""Maximum number of nodes in one range, as in Slurm."""


def expand(nodelist: str) -> list[str]:
    """Return the names that `scontrol show hostnames` prints, in the same order: `a[01-02,7],b` is a01, a02, a7, b.

    Raises ValueError with the position of a mistake, also for mistakes that Slurm 22.05 accepts: it reads `a[` as a
    node called `a]`.
    """
    _check_brackets(nodelist)
    names = list[str]()
    for match in _NAME.finditer(nodelist):
        names += _expand_one(nodelist, match.start(), match[0])
    return names


def _check_brackets(nodelist: str) -> None:
    opened = None
    for at, character in enumerate(nodelist):
        if character == "[" and opened is None:
            opened = at
        elif character == "]" and opened is not None:
            opened = None
        elif character in "[]":
            raise _error(nodelist, at, f"an unexpected {character!r}")
    if opened is not None:
        raise _error(nodelist, opened, "'[' is never closed")


def _expand_one(nodelist: str, begin: int, name: str) -> list[str]:
    """Return the names of one element, such as r[1-2]n[01-03]."""
    texts, choices, at = list[str](), list[list[str]](), 0
    for found in _BRACKETS.finditer(name):
        texts.append(name[at : found.start()])
        choices.append(_choices(nodelist, begin + found.start(1), found[1]))
        at = found.end()
    if not choices:
        return [name]
    if at < len(name):
        raise _error(nodelist, begin + at, "text after the last bracket")
    return ["".join(map("".join, zip(texts, chosen, strict=True))) for chosen in _combinations(choices)]


def _combinations(choices: list[list[str]]) -> list[tuple[str, ...]]:
    """Return all combinations of one choice from each list, in Slurm's order.

    The last list varies fastest, then the first, the second and so on.
    """
    *others, last = choices
    return [(*reversed(chosen), end) for chosen in itertools.product(*reversed(others)) for end in last]


def _choices(nodelist: str, at: int, inside: str) -> list[str]:
    """Expand the ranges between two brackets. A number has at least as many digits as the first of its range."""
    numbers = list[str]()
    for part in inside.split(","):
        found = _RANGE.fullmatch(part)
        if not found:
            raise _error(nodelist, at, f"{part!r} is neither a number nor a range")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise _error(nodelist, at, f"the range {part} runs backwards")
        if last - first >= _MAX_RANGE:
            raise _error(nodelist, at, f"the range {part} has more than {_MAX_RANGE} nodes")
        numbers += [f"{number:0{len(found[1])}d}" for number in range(first, last + 1)]
        at += len(part) + 1
    return numbers


def _error(nodelist: str, at: int, what: str) -> ValueError:
    return ValueError(f"{nodelist!r} is no list of nodes: {what} at character {at + 1}")
