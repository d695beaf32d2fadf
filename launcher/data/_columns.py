"""Checks of the values in canonical columns."""

import math
from collections.abc import Mapping
from textwrap import shorten
from typing import Any

import numpy as np

from launcher.config.requested_columns import Column
from launcher.data import TEXTS
from launcher.data._images import as_pixels

MAX_ROW = 16 * 2**20
"""Maximum length of a row: bytes of a line, characters of a text."""

_IGNORED = ("-100", "-100.0")
"""Notations of a label that excludes its word from training and metrics (torch's ignore_index)."""

Name = str | list[str]
"""Name of a column in the source, or names of several columns that make up one canonical column."""


def checked_value(column: str, name: Name, value: object) -> object:
    """Return the value of a canonical column in its usual type. Raises ValueError with the mistake.

    `name`: the name of the column in the source.
    """
    wants = column.wants if isinstance(column, Column) else None
    if column in TEXTS:
        return _text(name, value)
    if value is None:
        raise ValueError(f"column {name!r} is empty")
    if column == "words":
        return [_text(name, word) if isinstance(word, str) else str(_label(name, word)) for word in _list(name, value)]
    if column == "labels":
        return _tags(name, value)
    if column == "label" and wants == "names":
        return _label_names(name, value)
    if column == "label":
        return _number(name, value) if wants == "number" else _label(name, value)
    if column == "features":
        return _numbers(name, value)
    return as_pixels(name, value) if column == "image" else _answers(name, value)


def inconsistency(row: Mapping[str, Any]) -> str | None:
    """Return a description of a mistake between the columns of a row; None: there is none."""
    if {"words", "labels"} <= row.keys() and len(row["words"]) != len(row["labels"]):
        return f"{len(row['words'])} words and {len(row['labels'])} labels: one for each is needed"
    if {"context", "answers"} <= row.keys():
        pairs = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
        for text, start in pairs:
            if row["context"][start : start + len(text)] != text:
                return f"answer {text[:60]!r} does not stand at character {start} of the context"
    return None


def lone_surrogate(text: str) -> str | None:
    """Return a description of the first lone surrogate of a text; None: there is none.

    JSON can write a lone surrogate (\\ud83d), UTF-8 cannot.
    """
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half a character (U+{ord(text[error.start]):04X} alone): take it out"
    return None


def _text(name: Name, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"column {name!r} is no text but {type(value).__name__}")
    if len(value) > MAX_ROW:
        what = f"{len(value):,} characters, more than the {MAX_ROW:,} that a row may have"
        raise ValueError(f"column {name!r} has {what}: split it")
    if mistake := lone_surrogate(value):
        raise ValueError(mistake)
    return value


def _list(name: Name, value: object) -> list[object]:
    if not isinstance(value, list | tuple | np.ndarray):
        raise ValueError(f"column {name!r} is no list but {type(value).__name__}")
    return list(value)


def _tags(name: Name, value: object) -> list[str | None]:
    """Return the label of each word, or None for -100, which excludes the word from training and metrics."""
    tags: list[str | None] = []
    for number, tag in enumerate(_list(name, value), start=1):
        try:
            tags.append(None if _is_ignored(tag) else str(_label(name, tag)))
        except ValueError as error:
            raise ValueError(f"{error} (label {number})") from None
    return tags


def _label_names(name: Name, value: object) -> list[str]:
    """Return the labels of a row. Raises ValueError for a list with a 0 or 1 for each class, which looks like names."""
    values = _list(name, value)
    names = [str(_label(name, one)) for one in values]
    flags = any(isinstance(one, bool) for one in values) or set(names) <= {"0", "1"}
    if flags and (len(set(names)) < len(names) or "True" in names or "False" in names):
        classes = [number for number, one in enumerate(names) if one in ("1", "True")]
        hint = f"(list the classes of the row instead: {_brief(classes)})"
        raise ValueError(f"column {name!r} is {_brief(values)}: a 0 or 1 for each class, not a list of labels {hint}")
    return names


def _is_ignored(value: object) -> bool:
    return not isinstance(value, list | dict) and str(value) in _IGNORED


def _brief(value: object) -> str:
    return shorten(repr(value), 80, placeholder=" ...")


def _label(name: Name, value: object) -> object:
    """Return a name or a whole number. Raises ValueError for anything that is no label."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"column {name!r} is empty")
    if _is_ignored(value):
        raise ValueError(f"column {name!r} is {value!r}, which marks a row without a label: leave it out")
    if isinstance(value, str):
        return _text(name, value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int | np.integer):
        hint = " (several in a row: task.labels: multi)" if isinstance(value, list) else ""
        raise ValueError(f"column {name!r} is {_brief(value)}: a label is a name or a whole number{hint}")
    return value


def _numbers(name: Name, value: object) -> list[float]:
    """Return the numbers of one column that holds a list, or of several columns."""
    values = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
    if not values:
        raise ValueError(f"column {name!r} has no number")
    names = name if isinstance(name, list) else [name] * len(values)
    return [_number(one, number) for one, number in zip(names, values, strict=True)]


def _number(name: Name, value: Any) -> float:
    if value is None:
        raise ValueError(f"column {name!r} is empty")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"column {name!r} is {value!r}: should be a number") from None
    if not math.isfinite(number):
        raise ValueError(f"column {name!r} is {value!r}: should be a finite number")
    return number


def _answers(name: Name, value: Any) -> dict[str, list[str] | list[int]]:
    """Return answers in the form of SQuAD: `text` and `answer_start` (in characters), a list of each. The lists are
    empty for a question without an answer."""
    try:
        texts, starts = value["text"], value["answer_start"]
        pairs = [(_text(name, text), int(start)) for text, start in zip(texts, starts, strict=True)]
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"column {name!r} should hold text and answer_start, a list of each") from None
    return {"text": [text for text, _ in pairs], "answer_start": [start for _, start in pairs]}
