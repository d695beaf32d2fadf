"""Types of the options of benchmarks, whose mistakes argparse reports."""

import argparse
from collections.abc import Callable, Iterable


def numbers(text: str) -> list[int]:
    """Return whole numbers above 0, separated by commas. Raises ArgumentTypeError."""
    if not all(part.isdecimal() and int(part) > 0 for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text}: whole numbers above 0, separated by commas, such as 2,4")
    return [int(part) for part in text.split(",")]


def names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return the type of names of `known`, separated by commas; an empty text is an empty list."""
    allowed = list(known)

    def parsed(text: str) -> list[str]:
        found = [part for part in text.split(",") if part]
        if unknown := [name for name in found if name not in allowed]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: no such name (there are {', '.join(allowed)})")
        return found

    return parsed
