"""Strict numbers and booleans. By default pydantic accepts true for 1, "5" for 5 and 0 for false, which hides
mistakes."""

import re
from collections.abc import Callable
from typing import Any

from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_WORDS = ("true", "false", "yes", "no", "on", "off")
"""Texts that pydantic accepts as booleans: YAML 1.1 parses the last four as booleans, YAML 1.2 as texts."""
_NAMES = {"int": "integer", "float": "number"}
_OPAQUE = ("default", "metadata", "function", "serialization", "expected", "keys_schema")
"""Parts of a schema that describe no value of the document. Keys of a map need no check: they are always texts."""


def strict(schema: Any) -> Any:
    """Return the schema with strict types: numbers refuse booleans and texts, booleans refuse numbers.

    Booleans still accept the texts in _WORDS.
    """
    if isinstance(schema, list | tuple):
        return type(schema)(map(strict, schema))
    if not isinstance(schema, dict):
        return schema
    kind = schema["type"] if isinstance(schema.get("type"), str) else None  # else a map with a field called type
    if kind == "function-before" and schema["function"].get("function") in _CHECKS.values():
        return schema
    inner: CoreSchema = {key: value if key in _OPAQUE else strict(value) for key, value in schema.items()}
    if kind in _CHECKS:
        return core_schema.no_info_before_validator_function(_CHECKS[kind], inner)
    return inner


def _number(kind: str) -> Callable[[object], object]:
    def check(value: object) -> object:
        if isinstance(value, bool):
            what = f"should be a valid {_NAMES[kind]}, not {str(value).lower()}"
            raise PydanticCustomError(f"{kind}_type", "{what}", {"what": what})
        if isinstance(value, str):
            advice = _advice(value.strip())
            what = f"should be a valid {_NAMES[kind]}{advice}"
            raise PydanticCustomError(f"{kind}_type", "{what}", {"what": what})
        return value

    return check


def _advice(text: str) -> str:
    """Return advice, in parentheses, on a text in place of a number; empty: there is none."""
    if _is_number(text):
        return f" (leave the quotes out: {text})"
    found = re.fullmatch(r"([-+]?[\d.,]+(?:[eE][-+]?\d+)?)\s*([^\d\s]{0,12})", text, re.ASCII)
    if found is None:
        return ""
    number, unit = found[1].replace(",", "."), found[2]
    if not _is_number(number) or not text.isprintable():
        return ""
    if unit == "%":
        return f" (as a fraction: {float(number) / 100:g})"
    return f" (a number alone, without {unit})" if unit else f" (with a decimal point: {number})"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isprintable()


def _boolean(value: object) -> object:
    if isinstance(value, bool) or (isinstance(value, str) and value.lower() in _WORDS):
        return value
    raise PydanticCustomError("bool_type", "should be true or false")


_CHECKS: dict[object, Callable[[object], object]] = {"int": _number("int"), "float": _number("float"), "bool": _boolean}
