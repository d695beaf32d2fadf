"""YAML as plain values with origins: the file and line of each value, or the override that set it. Merged documents
keep the origins of their parts, so that a message names the line that the user wrote."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.config import secret_values, yaml_tree
from launcher.config.errors import Problem, UserError, one_line, shown
from launcher.config.types import JsonObject
from launcher.config.yaml_tree import NODES, Node, NotYaml, YamlMistake

Key = tuple[str | int, ...]
"""Path of a value: keys of maps and places in lists."""
Value = Any
"""A plain value of YAML: None, a boolean, a number, a text, a list or a map."""

SIZE = 2**20
"""Maximum size of a file in bytes."""


@dataclass
class Document:
    """Plain values of merged YAML files and overrides.

    `origins`: file and line, or override, of each key path. `dropped`: keys that were lost because a map of another
    kind replaced their map, each with its origin and the kind of the lost map.
    """

    value: JsonObject
    origins: dict[Key, str] = field(default_factory=dict)
    dropped: dict[Key, tuple[str, str]] = field(default_factory=dict)

    def origin(self, path: Key) -> str:
        """Return the origin of the value at `path`, or of the nearest map around it."""
        while path not in self.origins:
            path = path[:-1]
        return self.origins[path]

    def located(self, problem: Problem) -> str:
        """Return a problem as one line that begins with the file and line of its key, or with its override."""
        return one_line(f"{self.origin(tuple(problem.key.split('.')))}: {problem}")


class Override(str):
    """An override `key.path=value`. `origin`: text with which a message about it begins."""

    origin: str

    def __new__(cls, text: str, origin: str) -> "Override":
        override = super().__new__(cls, text)
        override.origin = origin
        return override


def read(file: Path, times: int = 1) -> Document:
    """Read a file that holds a map. `times`: factor of the maximum size. Raises UserError."""
    value, origins = plain(file, times)
    if not isinstance(value, dict):
        raise UserError(f"{file}:1: should be a map of keys and values")
    return Document(value, origins)


def plain(file: Path, times: int = 1) -> tuple[Value, dict[Key, str]]:
    """Read any YAML file. Returns its values and their origins. Raises UserError."""
    origins: dict[Key, str] = {(): f"{file}:1"}
    try:
        return _plain(yaml_tree.parse(_text(file, times * SIZE), times * NODES), (), str(file), origins), origins
    except YamlMistake as mistake:
        raise UserError(f"{file}:{mistake.line}: {shown(mistake.what)}") from None


def of_text(text: str, where: str) -> Value:
    """Parse a YAML value that is not in a file, such as an option's. `where`: begins the message. Raises UserError."""
    return _plain(_parse_value(text, where), (), "", {})


def of_override(text: str) -> Document:
    """Parse `key.path=value`, with a value in YAML. Raises UserError."""
    key, equals, value = text.partition("=")
    parts, where = [part.strip() for part in key.split(".")], origin_of(text)
    if not equals or not all(parts) or not key.isprintable():
        raise UserError(f"{where}: an override has the form key.path=value")
    if len(parts) > yaml_tree.DEPTH:
        raise UserError(f"{where}: {len(parts)} keys deep ({yaml_tree.DEPTH} at the most)")
    inner: dict[Key, str] = {}
    nested = _plain(_parse_value(value, where), tuple(parts), "", inner)
    for part in reversed(parts):
        nested = {part: nested}
    origins: dict[Key, str] = dict.fromkeys(inner, where)
    origins.update({tuple(parts[:n]): where for n in range(1, len(parts) + 1)})
    return Document(nested, origins)


def origin_of(override: str) -> str:
    """Return what a message about an override begins with: the line of the file that has it, or its text. A value that
    may be a secret is left out."""
    if isinstance(override, Override):
        return override.origin
    if override.lstrip().startswith("cluster.env") or secret_values.is_known_key(override):
        override = f"{override.partition('=')[0]}=..."
    return shown(repr(override))


def merge(below: Document, above: Document, parts: bool = False) -> Document:
    """Merge two documents. Values of `above` replace those of `below`.

    Two maps are merged key by key if they are of the same kind, or if the map in `above` has no kind. A map of another
    kind is replaced as a whole, because its keys have another meaning. `parts`: a map without a kind in `below` merges
    with a map of any kind, so that the order of overrides does not matter.
    """
    replaced = set[Key]()
    dropped = {**below.dropped, **above.dropped}

    def kind(map_: JsonObject) -> object:
        return map_.get("kind", "fraction" if "fraction" in map_ else None)  # a held-out share has no kind

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
            continue  # a map in both keeps its line in `below`; its keys have their own lines
        origins[path] = where
    return Document(value, origins, dropped)


def _text(file: Path, limit: int) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(limit + 1)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except OSError as error:
        raise UserError(f"{shown(str(file))}: cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise UserError(f"{file}: larger than {limit // 2**20} MiB: too large for YAML (lists of rows are data files)")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}:{number}: not UTF-8 (byte 0x{data[error.start]:02x})") from None


def _parse_value(value: str, where: str) -> Node:
    """Parse a value of the command line as a tree. `where`: begins the message. Raises UserError."""
    try:
        return yaml_tree.parse(value)
    except NotYaml:
        raise UserError(f"{where}: {shown(repr(value))} is not valid YAML") from None
    except YamlMistake as mistake:
        raise UserError(f"{where}: {shown(mistake.what)}") from None


def _plain(node: Node, path: Key, file: str, origins: dict[Key, str]) -> Value:
    """Convert a tree to plain Python values, and add the line of each value to `origins`."""
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
