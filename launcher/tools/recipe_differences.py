"""The keys in which recipes differ. Pure functions of plain values."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

_IGNORED = ("name",)
"""Keys that differ between any two runs."""


def differences(recipes: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, str]]:
    """Return the differing values as text, by dotted key and by name of the recipe. A key that only some kinds have,
    such as a schedule's floor, is compared only among the recipes with this key. Empty recipes are ignored."""
    plain = {name: {k: v for k, v in recipe.items() if k not in _IGNORED} for name, recipe in recipes.items() if recipe}
    return {key: {name: text(value) for name, value in values.items()} for key, values in _differing(plain, "")}


def short(keys: Sequence[str]) -> list[str]:
    """Return for each dotted key the last part, if it is unique, else the whole key."""
    last = [key.rpartition(".")[2] for key in keys]
    unique = {word for word, times in Counter(last).items() if times == 1 and word != "kind"}
    return [word if word in unique else key for key, word in zip(keys, last, strict=True)]


def text(value: object) -> str:
    """Return a value for a table cell.

    A map with a kind becomes the kind, null an empty text, a string stays without quotes, and other values become JSON.
    """
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
