"""YAML as plain values, each with its origin: the file and line it was written on, or the override that set it. Merged
documents keep the origins of their parts, so that a message points at what the user typed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.config import yaml_tree
from launcher.config.errors import UserError, shown
from launcher.config.types import JsonObject
from launcher.config.yaml_tree import NODES, Node, NotYaml, YamlMistake

Key = tuple[str | int, ...]
"""Path of a value: keys of maps and places in lists."""
Value = Any
"""A plain value of YAML: None, a boolean, a number, a text, a list or a map."""

SIZE = 2**20
"""Bytes of a file, at the most."""


@dataclass
class Document:
    """A merged document: its plain value, and for each key path where it was written. `dropped`: keys of a map that one
    of another kind has replaced, each with where it was written and the kind it belongs to."""

    value: JsonObject
    origins: dict[Key, str] = field(default_factory=dict)
    dropped: dict[Key, tuple[str, str]] = field(default_factory=dict)

    def origin(self, path: Key) -> str:
        """Where the value at `path` was written, or the nearest map around it."""
        while path not in self.origins:
            path = path[:-1]
        return self.origins[path]


class Override(str):
    """`key.path=value`. `origin`: what a message says before what is wrong with it."""

    origin: str

    def __new__(cls, text: str, origin: str) -> "Override":
        made = super().__new__(cls, text)
        made.origin = origin
        return made


def read(file: Path, times: int = 1) -> Document:
    """A file that is a map of keys and values, of `times` the size that a person may write. Raises UserError."""
    value, origins = plain(file, times)
    if not isinstance(value, dict):
        raise UserError(f"{file}:1: should be a map of keys and values")
    return Document(value, origins)


def plain(file: Path, times: int = 1) -> tuple[Value, dict[Key, str]]:
    """Any YAML file as plain values, and where each of them is written. Raises UserError."""
    origins: dict[Key, str] = {(): f"{file}:1"}
    try:
        return _plain(yaml_tree.parse(_text(file, times * SIZE), times * NODES), (), str(file), origins), origins
    except YamlMistake as mistake:
        raise UserError(f"{file}:{mistake.line}: {shown(mistake.what)}") from None


def of_text(text: str, where: str) -> Value:
    """The plain value of a text that is no file, such as an option's. `where`: what a message begins with. Raises
    UserError."""
    return _plain(_given(text, where), (), "", {})


def of_override(text: str) -> Document:
    """`key.path=value`, the value as YAML. Raises UserError."""
    key, equals, value = text.partition("=")
    parts, where = [part.strip() for part in key.split(".")], origin_of(text)
    if not equals or not all(parts) or not key.isprintable():
        raise UserError(f"{where}: an override has the form key.path=value")
    if len(parts) > yaml_tree.DEPTH:
        raise UserError(f"{where}: {len(parts)} keys deep ({yaml_tree.DEPTH} at the most)")
    inner: dict[Key, str] = {}
    nested = _plain(_given(value, where), tuple(parts), "", inner)
    for part in reversed(parts):
        nested = {part: nested}
    origins: dict[Key, str] = dict.fromkeys(inner, where)
    origins.update({tuple(parts[:n]): where for n in range(1, len(parts) + 1)})
    return Document(nested, origins)


def origin_of(override: str) -> str:
    """Where an override comes from: the words of the command line themselves, or a line of a file."""
    return override.origin if isinstance(override, Override) else shown(repr(override))


def merge(below: Document, above: Document, parts: bool = False) -> Document:
    """Maps merge, everything else is replaced; so is a map of another kind, whose keys mean something else.
    `parts`: a map without a kind is part of one of any kind, as with overrides, whose order should not matter."""
    replaced = set[Key]()
    dropped = {**below.dropped, **above.dropped}

    def kind(map_: JsonObject) -> object:
        return map_.get(
            "kind", "fraction" if "fraction" in map_ else None
        )  # a held-out share, where a source may stand

    def same(low: JsonObject, high: JsonObject) -> bool:
        return kind(high) is None or kind(high) == (kind(low) or (kind(high) if parts else None))

    def joined(low: Value, high: Value, path: Key) -> Value:
        if isinstance(low, dict) and isinstance(high, dict) and (path == () or same(low, high)):
            merged = dict(low)
            for key, item in high.items():
                merged[key] = joined(low[key], item, (*path, key)) if key in low else item
            return merged
        replaced.add(path)
        if isinstance(low, dict) and isinstance(high, dict):
            dropped.update({(*path, key): (below.origin((*path, key)), str(kind(low))) for key in low if key != "kind"})
        return high

    value = joined(below.value, above.value, ())
    origins = {
        path: where
        for path, where in below.origins.items()
        if not any(path[:n] in replaced for n in range(len(path) + 1))
    }
    for path, where in above.origins.items():
        if path and path in origins and _is_map(below.value, path) and _is_map(value, path):
            continue  # a map that both wrote keeps the line of the lower one; its keys have their own
        origins[path] = where
    return Document(value, origins, dropped)


def _text(file: Path, most: int) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(most + 1)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except OSError as error:
        raise UserError(f"{shown(str(file))}: cannot be read: {error.strerror}") from None
    if len(data) > most:
        raise UserError(f"{file}: larger than {most // 2**20} MiB: too large for YAML (lists of rows are data files)")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}:{number}: not UTF-8 (byte 0x{data[error.start]:02x})") from None


def _given(value: str, where: str) -> Node:
    """The tree of a value on the command line. Raises UserError that begins with `where`."""
    try:
        return yaml_tree.parse(value)
    except NotYaml:
        raise UserError(f"{where}: {shown(repr(value))} is not valid YAML") from None
    except YamlMistake as mistake:
        raise UserError(f"{where}: {shown(mistake.what)}") from None


def _plain(node: Node, path: Key, file: str, origins: dict[Key, str]) -> Value:
    """A tree as plain Python values; the line of each goes to `origins`."""
    if not isinstance(node.value, dict | list):
        return node.value
    items = node.value.items() if isinstance(node.value, dict) else enumerate(node.value)
    values = dict[str | int, Value]()
    for key, item in items:
        origins[(*path, key)] = f"{file}:{item.line}"
        values[key] = _plain(item.node, (*path, key), file, origins)
    return values if isinstance(node.value, dict) else list(values.values())


def _is_map(value: Value, path: Key) -> bool:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    return isinstance(value, dict)
