"""The keys in which recipes differ. Pure functions of plain values."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_OWN = ("name",)
"""Keys in which runs differ by themselves."""


def of(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """By dotted key, what each of the recipes that have it says, as text. A key of one kind alone, such as a schedule's
    floor, counts among the recipes that have it; an empty recipe counts nowhere."""
    plain = {name: {k: v for k, v in recipe.items() if k not in _OWN} for name, recipe in recipes.items() if recipe}
    return {key: {name: text(value) for name, value in values.items()} for key, values in _found(plain, "")}


def short(keys: Sequence[str]) -> list[str]:
    """The last word of each dotted key, where no two share it (else the whole key)."""
    last = [key.rpartition(".")[2] for key in keys]
    plain = {word for word, times in Counter(last).items() if times == 1 and word != "kind"}
    return [word if word in plain else key for key, word in zip(keys, last, strict=True)]


def text(value: Any) -> str:
    """A value as it stands in a cell: of a map its kind where it has one; nothing for null, quotes for no text."""
    if isinstance(value, dict) and "kind" in value:
        return str(value["kind"])
    if value is None:
        return ""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _found(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    maps = {name: value for name, value in values.items() if isinstance(value, dict)}
    if len(maps) < len(values) and len(set(map(text, values.values()))) > 1:
        yield path, values
    for key in dict.fromkeys(key for value in maps.values() for key in value):
        inside = {name: value[key] for name, value in maps.items() if key in value}
        yield from _found(inside, f"{path}.{key}".removeprefix("."))
