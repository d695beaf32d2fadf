"""Messages for values that pydantic refuses: one sentence in the words of the documentation."""

import re
from collections.abc import Callable
from typing import Any

from pydantic_core import ErrorDetails

Context = dict[str, Any]
"""Values that a pydantic message is filled with."""


def of(error: ErrorDetails) -> str:
    """Return the message for an entry of ValidationError.errors()."""
    return plain(error["type"], error["msg"], {**error.get("ctx", {}), "input": error.get("input")})


def plain(kind: str, message: str, context: Context) -> str:
    """Return the message for a pydantic error by its type and context. A message that was rewritten before stays."""
    rewrite = _REWRITTEN.get(kind)
    if rewrite is not None and (written := rewrite(context)):
        return written
    message = re.sub(
        r"^(Value error, |Assertion failed, |(Input|String|List|Tuple|Dictionary) (?=should ))", "", message
    )
    message = message.split(", unable to")[0]
    return message[0].lower() + message[1:] if message[:1].isupper() else message


def _length(bound: str, key: str, what: str) -> Callable[[Context], str]:
    def write(context: Context) -> str:
        if key not in context:
            return ""
        count = context[key]
        plural = {"entry": "entries"}.get(what, f"{what}s")
        return f"should have at {bound} {count} {what if count == 1 else plural}"

    return write


def _below(context: Context) -> str:
    """Return a message for a percentage in place of a fraction; empty for another value."""
    value = context.get("input")
    if context.get("lt") == 1 and isinstance(value, int | float) and 2 <= value <= 100:
        return f"should be less than 1 (as a fraction: {value / 100:g})"
    return ""


_REWRITTEN: dict[str, Callable[[Context], str]] = {
    "dict_type": lambda _: "should be a map of keys and values",
    "model_type": lambda _: "should be a map of keys and values",
    "model_attributes_type": lambda _: "should be a map of keys and values",
    "tuple_type": lambda _: "should be a valid list",
    "bool_type": lambda _: "should be true or false",
    "bool_parsing": lambda _: "should be true or false",
    "int_parsing_size": lambda _: "should be a smaller number: it has too many digits",
    "less_than": _below,
    "none_required": lambda _: "should be null",
    "string_too_short": _length("least", "min_length", "character"),
    "string_too_long": _length("most", "max_length", "character"),
    "too_short": _length("least", "min_length", "entry"),
    "too_long": _length("most", "max_length", "entry"),
    "string_pattern_mismatch": lambda _: "is not of the form that this key takes",
}
