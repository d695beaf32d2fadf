"""YAML as plain values, each with its origin: the file and line it was written on, or the override that set it. Merged
documents keep the origins of their parts, so that a message points at what the user typed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from launcher.config.errors import UserError

Key = tuple[str | int, ...]


@dataclass
class Document:
    """A merged document: its plain value, and for each key path where it was written."""

    value: dict[str, Any]
    origins: dict[Key, str] = field(default_factory=dict)

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


def read(file: Path) -> Document:
    """A file that is a map of keys and values. Raises UserError."""
    tree = _tree(_text(file), str(file))
    if not isinstance(tree, CommentedMap):
        raise UserError(f"{file}:1: should be a map of keys and values")
    document = Document({}, {(): f"{file}:1"})
    document.value = _plain(tree, (), str(file), document.origins)
    return document


def plain(file: Path) -> tuple[Any, dict[Key, str]]:
    """Any YAML file as plain values, and where each of them is written. Raises UserError."""
    origins: dict[Key, str] = {(): f"{file}:1"}
    return _plain(_tree(_text(file), str(file)), (), str(file), origins), origins


def of_override(text: str) -> Document:
    """`key.path=value`, the value as YAML. Raises UserError."""
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise UserError(f"{origin_of(text)}: an override has the form key.path=value")
    try:
        tree = YAML(typ="rt").load(value) if value.strip() else None
    except (YAMLError, ValueError, KeyError):
        raise UserError(f"{origin_of(text)}: {value!r} is not valid YAML") from None
    inner: dict[Key, str] = {}
    nested = _plain(tree, tuple(parts), "", inner)
    for part in reversed(parts):
        nested = {part: nested}
    origins: dict[Key, str] = dict.fromkeys(inner, origin_of(text))
    origins.update({tuple(parts[:n]): origin_of(text) for n in range(1, len(parts) + 1)})
    return Document(nested, origins)


def origin_of(override: str) -> str:
    """Where an override comes from: the words of the command line themselves, or a line of a file."""
    return override.origin if isinstance(override, Override) else repr(override)


def merge(below: Document, above: Document, parts: bool = False) -> Document:
    """Maps merge, everything else is replaced; so is a map of another kind, whose keys mean something else.
    `parts`: a map without a kind is part of one of any kind, as with overrides, whose order should not matter."""
    origins = dict(below.origins)

    def kind(map_: dict[str, Any]) -> Any:
        return map_.get(
            "kind", "fraction" if "fraction" in map_ else None
        )  # a held-out share, where a source may stand

    def same(low: dict[str, Any], high: dict[str, Any]) -> bool:
        return kind(high) is None or kind(high) == (kind(low) or (kind(high) if parts else None))

    def joined(low: Any, high: Any, path: Key) -> Any:
        if isinstance(low, dict) and isinstance(high, dict) and (path == () or same(low, high)):
            merged = dict(low)
            for key, item in high.items():
                merged[key] = joined(low[key], item, (*path, key)) if key in low else item
            return merged
        for old in [o for o in origins if o[: len(path)] == path]:
            del origins[old]
        return high

    value = joined(below.value, above.value, ())
    for path, where in above.origins.items():
        if path and path in origins and _is_map(below.value, path) and _is_map(value, path):
            continue  # a map that both wrote keeps the line of the lower one; its keys have their own
        origins[path] = where
    return Document(value, origins)


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}:{number}: not UTF-8 (byte 0x{error.object[error.start]:02x})") from None


def _tree(text: str, file: str) -> Any:
    """ruamel's nodes."""
    try:
        return YAML(typ="rt").load(text)
    except DuplicateKeyError as error:
        mark = error.problem_mark
        raise UserError(f"{file}:{mark.line + 1}: {str(error.problem).split(' with value')[0]}") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UserError(f"{file}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem}") from None
    except ReaderError as error:
        where, what = text.count("\n", 0, error.position) + 1, f"character U+{error.character:04X} is not allowed"
        raise UserError(f"{file}:{where}: not valid YAML: {what}") from None
    except (YAMLError, ValueError, KeyError) as error:  # such as a date in a thirteenth month
        raise UserError(f"{file}: not valid YAML: {error}") from None


def _plain(node: Any, path: Key, file: str, origins: dict[Key, str]) -> Any:
    """ruamel's nodes as plain Python values; the line of each goes to `origins`."""
    if isinstance(node, CommentedMap):
        for key in node:
            line = (node.lc.data or {}).get(key, [node.lc.line])[0]  # what << merges in has no line of its own
            origins[(*path, str(key))] = f"{file}:{line + 1}"
        return {str(key): _plain(item, (*path, str(key)), file, origins) for key, item in node.items()}
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            origins[(*path, index)] = f"{file}:{node.lc.item(index)[0] + 1}"
        return [_plain(item, (*path, index), file, origins) for index, item in enumerate(node)]
    if node is None or isinstance(node, bool):
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return str(node)


def _is_map(value: Any, path: Key) -> bool:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    return isinstance(value, dict)
