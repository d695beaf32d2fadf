"""The keys in which recipes differ; pure functions of plain values."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

_IGNORED = ("name",)
"""Keys that differ between any two runs."""


def differences(recipes: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, str]]:
    """The differing values as text, by dotted key and name of the recipe. A key that only some kinds have, such as a
    schedule's floor, is compared among the recipes that have it. Empty recipes are ignored."""
    plain = {name: {k: v for k, v in recipe.items() if k not in _IGNORED} for name, recipe in recipes.items() if recipe}
    return {key: {name: text(value) for name, value in values.items()} for key, values in _differing(plain, "")}


def short(keys: Sequence[str]) -> list[str]:
    """The last part of each dotted key where it is unique, else the whole key."""
    last = [key.rpartition(".")[2] for key in keys]
    unique = {word for word, times in Counter(last).items() if times == 1 and word != "kind"}
    return [word if word in unique else key for key, word in zip(keys, last, strict=True)]


def text(value: object) -> str:
    """A value for a table cell: the kind of a map that has one, nothing for null, a string without quotes, else
    JSON."""
    if isinstance(value, dict) and "kind" in value:
        return str(value["kind"])
    if value is None:
        return ""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _differing(values: Mapping[str, object], path: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    maps = {name: value for name, value in values.items() if isinstance(value, dict)}
    if len(maps) < len(values) and len(set(map(text, values.values()))) > 1:
        yield path, values
    for key in dict.fromkeys(key for value in maps.values() for key in value):
        inside = {name: value[key] for name, value in maps.items() if key in value}
        yield from _differing(inside, f"{path}.{key}".removeprefix("."))
