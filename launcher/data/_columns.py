"""What the canonical columns hold, and what makes a value of one useless."""

import math
from collections.abc import Mapping
from textwrap import shorten
from typing import Any

import numpy as np

from launcher.data._images import image

ROW = 16 * 2**20
"""The longest row that is read: bytes of a line, characters of a text."""

_IGNORED = ("-100", "-100.0")
"""A label that excludes its word from training and metrics (torch's ignore_index)."""

TEXTS = ("text", "text_pair", "question", "context", "target")


def value(column: str, name: Any, given: Any) -> Any:
    """What a row holds in a column that is called `name` in the source. Raises ValueError with what is wrong."""
    if column in TEXTS:
        return _text(name, given)
    if given is None:
        raise ValueError(f"column {name!r} is empty")
    if column == "words":
        return _names(name, given)
    if column == "labels":
        return _tags(name, given)
    if column == "label" and getattr(column, "wants", "") == "names":
        return _several(name, given)
    if column == "label":
        return _number(name, given) if getattr(column, "wants", "") == "number" else _label(name, given)
    if column == "features":
        return _numbers(name, given)
    return image(name, given) if column == "image" else _answers(name, given)


def together(row: Mapping[str, Any]) -> str | None:
    """What is wrong between the columns of a row, if anything."""
    if {"words", "labels"} <= row.keys() and len(row["words"]) != len(row["labels"]):
        return f"{len(row['words'])} words and {len(row['labels'])} labels: one for each is needed"
    if {"context", "answers"} <= row.keys():
        pairs = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
        for text, start in pairs:
            if row["context"][start : start + len(text)] != text:
                return f"answer {text[:60]!r} does not stand at character {start} of the context"
    return None


def half_a_character(text: str) -> str | None:
    """Tells of a lone surrogate, which JSON can write as \\ud83d and UTF-8 cannot."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half a character (U+{ord(text[error.start]):04X} alone): take it out"
    return None


def _text(name: Any, given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError(f"column {name!r} is no text but {type(given).__name__}")
    if len(given) > ROW:
        told = f"column {name!r} has {len(given):,} characters, more than the {ROW:,} that a row may have: split it"
        raise ValueError(told)
    if what := half_a_character(given):
        raise ValueError(what)
    return given


def _names(name: Any, given: Any) -> list[str]:
    return [_text(name, one) if isinstance(one, str) else str(_label(name, one)) for one in _list(name, given)]


def _list(name: Any, given: Any) -> list[Any]:
    if not isinstance(given, list | tuple | np.ndarray):
        raise ValueError(f"column {name!r} is no list but {type(given).__name__}")
    return list(given)


def _tags(name: Any, given: Any) -> list[str | None]:
    """A label for each word: None where it is -100, which excludes the word from training and metrics."""
    tags: list[str | None] = []
    for number, one in enumerate(_list(name, given), start=1):
        try:
            tags.append(None if _is_ignored(one) else str(_label(name, one)))
        except ValueError as error:
            raise ValueError(f"{error} (label {number})") from None
    return tags


def _several(name: Any, given: Any) -> list[str]:
    """The names of a row's labels. Raises ValueError for a 0 or 1 for each class, which would be read as names."""
    values = _list(name, given)
    names = [str(_label(name, one)) for one in values]
    flags = any(isinstance(one, bool) for one in values) or set(names) <= {"0", "1"}
    if flags and (len(set(names)) < len(names) or "True" in names or "False" in names):
        classes = [number for number, one in enumerate(names) if one in ("1", "True")]
        hint = f"(list the classes of the row instead: {_brief(classes)})"
        raise ValueError(f"column {name!r} is {_brief(values)}: a 0 or 1 for each class, not a list of labels {hint}")
    return names


def _is_ignored(given: Any) -> bool:
    return not isinstance(given, list | dict) and str(given) in _IGNORED


def _brief(given: Any) -> str:
    return shorten(repr(given), 80, placeholder=" ...")


def _label(name: Any, given: Any) -> Any:
    """A name or a whole number. Raises ValueError for what stands for no label."""
    if given is None or (isinstance(given, str) and not given.strip()):
        raise ValueError(f"column {name!r} is empty")
    if _is_ignored(given):
        raise ValueError(f"column {name!r} is {given!r}, which marks a row without a label: leave it out")
    if isinstance(given, str):
        return _text(name, given)
    if isinstance(given, float) and given == int(given if math.isfinite(given) else 0.5):
        return int(given)
    if not isinstance(given, int | np.integer):
        many = " (several in a row: task.labels: multi)" if isinstance(given, list) else ""
        raise ValueError(f"column {name!r} is {_brief(given)}: a label is a name or a whole number{many}")
    return given


def _numbers(name: Any, given: Any) -> list[float]:
    """Of a column that holds a list, or of several columns."""
    many = list(given) if isinstance(given, list | tuple | np.ndarray) else [given]
    if not many:
        raise ValueError(f"column {name!r} has no number")
    names = name if isinstance(name, list) else [name] * len(many)
    return [_number(one, value) for one, value in zip(names, many, strict=True)]


def _number(name: Any, given: Any) -> float:
    if given is None:
        raise ValueError(f"column {name!r} is empty")
    try:
        found = float(given)
    except (TypeError, ValueError):
        raise ValueError(f"column {name!r} is {given!r}: should be a number") from None
    if not math.isfinite(found):
        raise ValueError(f"column {name!r} is {given!r}: should be a finite number")
    return found


def _answers(name: Any, given: Any) -> dict[str, list[Any]]:
    """As in SQuAD: `text` and `answer_start`, in characters, for each; empty where there is no answer."""
    try:
        texts, starts = given["text"], given["answer_start"]
        pairs = [(_text(name, text), int(start)) for text, start in zip(texts, starts, strict=True)]
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"column {name!r} should hold text and answer_start, a list of each") from None
    return {"text": [text for text, _ in pairs], "answer_start": [start for _, start in pairs]}
