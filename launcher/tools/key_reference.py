"""The reference of all keys of a recipe and a cluster profile as Markdown, generated from the Configs.

`python -m launcher.tools.key_reference > docs/reference.md` writes the page of the documentation.
"""

import inspect
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from launcher.config import field_descriptions, kinds
from launcher.config.base_model import Strict
from launcher.config.cluster import Cluster
from launcher.config.model import ModelConfig
from launcher.config.recipe import Recipe
from launcher.config.types import Plugin

_FAMILIES = {
    "model": "models", "data.train": "data", "task": "tasks", "optimizer": "optimizers", "schedule": "lr_schedules",
    "strategy": "strategies", "sinks": "sinks",
}  # fmt: skip
"""Plug-in folders, by the recipe key that names a kind in the folder."""

_SCALARS: dict[object, str] = {
    int: "integer", float: "number", bool: "true or false", str: "text", dict: "map", type(None): "",
}  # fmt: skip
_SHARED_ROWS = 3
"""Minimum number of keys that some kinds of a family share, to list them once."""

_PREFACE = """\
# Reference of all keys

This page is generated from the code (`python -m launcher.tools.key_reference > docs/reference.md`); a test compares the
two. A key without a default that is not required is off or decided by the launcher. A dotted key such as
`train.steps` is the key `steps` in the map `train`, in a file as well as on the command line (`train.steps=100`).
"""

Row = tuple[str, str, str, str]
"""A key, its values, its default and its description."""


def reference() -> str:
    """Return the whole page: the recipe, then the cluster profile."""
    parts = [_PREFACE, "## Recipe\n", _table(_rows(Recipe, depth=0))]
    for key, field in Recipe.model_fields.items():
        parts += _recipe_section(key, field)
    sections = {key: config for key, field in Cluster.model_fields.items() for config in _maps(field.annotation)}
    schedulers = _schedulers()
    rows = _rows(Cluster, depth=0)
    rows += [(kind, "map", "", f"Options of a cluster of kind {kind}.") for kind in schedulers]
    parts += ["## Cluster profile\n", *_text(Cluster), _table(rows)]
    for key, config in (sections | schedulers).items():
        parts += [f"### {key}\n", *_text(config), _table(_rows(config, f"{key}."))]
    return "\n".join(parts)


def _schedulers() -> dict[str, type[Strict]]:
    """Return the Config of each scheduler that has keys, by kind. The section of a profile is named after the kind."""
    return {kind: config for kind, config in _configs("schedulers").items() if _rows(config)}


def _recipe_section(key: str, field: FieldInfo) -> Iterator[str]:
    maps = _maps(field.annotation)
    if len(maps) > 1:
        yield from _family(key, {str(config.model_fields["kind"].default): config for config in maps})
    elif key in _FAMILIES:
        yield from _family(key, _configs(_FAMILIES[key]))
    elif maps:
        yield from (f"## {key}\n", *_text(maps[0]), _table(_rows(maps[0], f"{key}.")))
        for inner in (f"{key}.{name}" for name in maps[0].model_fields):
            if inner in _FAMILIES:
                yield from _family(inner, _configs(_FAMILIES[inner]))


def _configs(folder: str) -> dict[str, type[Strict]]:
    """Return the Config of each kind of a plug-in folder."""
    return {kind: kinds.module(folder, kind).Config for kind in kinds.available(folder)}


def _family(key: str, configs: Mapping[str, type[Strict]]) -> Iterator[str]:
    """Yield a section for each kind. Keys that several kinds share come first."""
    rows = {kind: _rows(config) for kind, config in configs.items()}
    users: dict[Row, tuple[str, ...]] = {
        row: tuple(kind for kind, listed in rows.items() if row in listed) for listed in rows.values() for row in listed
    }
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row, names in users.items():
        groups.setdefault(names, []).append(row)
    shared = {
        names: listed
        for names, listed in groups.items()
        if len(names) > 1 and (len(names) == len(configs) or len(listed) >= _SHARED_ROWS)
    }
    yield f"## {key}\n"
    yield f"Kinds: {_names(tuple(configs))}.\n"
    for names, listed in shared.items():
        yield f"Keys of {'every kind' if len(names) == len(configs) else _names(names)}:\n"
        yield _table(listed)
    for kind, config in configs.items():
        own = [row for row in rows[kind] if users[row] not in shared]
        yield f"### {key}: {kind}\n"
        yield from _text(config)
        if own:
            yield _table(own)


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _text(config: type[Strict]) -> Iterator[str]:
    """Yield the description of a Config, as one paragraph; nothing if there is none."""
    if text := " ".join(inspect.cleandoc(vars(config).get("__doc__") or "").split()):
        yield text + "\n"


def _rows(config: type[Strict], prefix: str = "", depth: int = 2) -> list[Row]:
    """Return a row for each key, followed by the rows of the maps below it. `depth`: levels of maps to list."""
    rows, descriptions = list[Row](), field_descriptions.of(config)
    for name, field in config.model_fields.items():
        if name == "kind" and len(get_args(field.annotation)) == 1:  # the section is about this kind
            continue
        path, maps = prefix + name, _maps(field.annotation)
        rows.append((path, _values(field), _default(field), " ".join(descriptions.get(name, "").split())))
        for inner in maps if depth > 0 else ():
            below = prefix + name + (".NAME" if get_origin(field.annotation) is dict else "")
            rows += _rows(inner, f"{below}.", depth - 1)
    return rows


def _maps(annotation: object) -> list[type[Strict]]:
    """Return the Configs in an annotation. Bases of plug-ins are left out, because their kinds have separate
    sections."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        base = annotation is ModelConfig or annotation.__module__ == Plugin.__module__
        return [] if base else [annotation]
    return [found for part in get_args(annotation) for found in _maps(part)]


def _table(rows: Sequence[Row]) -> str:
    lines = ["| key | values | default | |", "| --- | --- | --- | --- |"]
    for key, values, default, description in rows:
        cells = (f"`{key}`", values, default, description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or isinstance(value, Strict):
        return ""
    return f"`{_yaml(to_jsonable_python(value))}`"


def _yaml(value: object) -> str:
    """Return a value in one line, as in a recipe."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    return json.dumps(value)


def _values(field: FieldInfo) -> str:
    return _named(field.annotation, field.metadata)


def _named(annotation: object, metadata: Sequence[object] = ()) -> str:
    """Return the values that an annotation allows, in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [one for extra in parts[1:] for one in (extra.metadata if isinstance(extra, FieldInfo) else [extra])]
        return _named(parts[0], [*inner, *metadata])
    if origin is Literal:
        return ", ".join(f"`{_yaml(value)}`" for value in parts if value != "")
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, (_named(part, metadata) for part in parts))))
    if origin in (list, tuple):
        items = " or ".join(dict.fromkeys(_plural(_named(part)) for part in parts if part is not Ellipsis))
        count = f"{len(parts)} " if origin is tuple and Ellipsis not in parts else ""
        return f"list of {count}{items}"
    if origin is dict:
        return f"map of names to {_plural(_named(parts[1]))}"
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return "map with a kind" if "kind" in annotation.model_fields else "map"
    return _SCALARS.get(annotation, "any value") + _bounds(annotation, metadata)


def _plural(values: str) -> str:
    """Return the plural of a description of values, such as `numbers > 0` for `number > 0`."""
    noun, space, rest = values.partition(" ")
    return f"{noun}s{space}{rest}" if noun in ("integer", "number", "text", "map") else values


def _bounds(annotation: object, metadata: Sequence[object]) -> str:
    """Return the limits of a number, such as ` > 0, ≤ 1`; empty if there are none."""
    if annotation not in (int, float):
        return ""
    limits: dict[str, Any] = {}
    for one in metadata:
        match one:
            case annotated_types.Gt(gt=limit):
                limits[">"] = limit
            case annotated_types.Ge(ge=limit):
                limits["≥"] = limit
            case annotated_types.Lt(lt=limit):
                limits["<"] = limit
            case annotated_types.Le(le=limit):
                limits["≤"] = limit
    found = [f"{sign} {_limit(limit)}" for sign, limit in limits.items() if not (sign == "≥" and ">" in limits)]
    return f" {', '.join(found)}" if found else ""


def _limit(value: float) -> str:
    powers = {2**power: f"2^{power}" for power in (20, 63)}
    return powers.get(value, f"{value:,}" if isinstance(value, int) else f"{value:g}")


if __name__ == "__main__":
    print(reference(), end="")
