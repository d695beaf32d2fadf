"""From YAML files and overrides to a Recipe or a Cluster, every mistake told with the line it stands on.

Each value remembers its origin: the file and line it was written on, or the override that set it. `base:` files
and overrides are merged with their origins, so that a message points at what the user typed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from launcher.config.cluster import Cluster
from launcher.config.errors import Problem, UserError
from launcher.config.files import write
from launcher.config.recipe import Recipe
from launcher.config.types import Strict, hint

Key = tuple[str | int, ...]
T = TypeVar("T", bound=Strict)
_CLUSTER = "cluster."


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


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """A checked document and where each key of it was written."""

    value: T
    document: Document

    def located(self, error: UserError) -> UserError:
        """The same mistakes, with the file and line (or the override) before those that belong to a key."""
        lines = [
            f"{self.document.origin(tuple(p.key.split('.')))}: {p}" if isinstance(p, Problem) else p
            for p in error.problems
        ]
        return UserError(lines)


def recipe(file: str | Path, overrides: Sequence[str] = ()) -> Loaded[Recipe]:
    """The recipe of a file, or the shipped one with this name. Raises UserError with every mistake found."""
    return _typed(Recipe, _find(file, "recipes"), overrides)


def cluster(file: str | Path, overrides: Sequence[str] = ()) -> Loaded[Cluster]:
    """The cluster profile of a file, or the shipped one with this name. Raises UserError likewise."""
    plain = [Override(text.lstrip().removeprefix(_CLUSTER), _origin(text)) for text in overrides]
    loaded = _typed(Cluster, _find(file, "cluster"), plain)
    loaded.value._given, loaded.value._overrides = str(file), tuple(parted(overrides)[1])
    return loaded


def parted(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of the recipe, and those of the cluster profile, which begin with `cluster.`."""
    ours = [text.lstrip().startswith(_CLUSTER) for text in overrides]
    return (
        [text for text, of_cluster in zip(overrides, ours, strict=True) if not of_cluster],
        [text for text, of_cluster in zip(overrides, ours, strict=True) if of_cluster],
    )


def plain(file: Path) -> tuple[Any, dict[Key, str]]:
    """Any YAML file as plain values, and where each of them is written. Raises UserError."""
    origins: dict[Key, str] = {(): f"{file}:1"}
    return _plain(_tree(_text(file), str(file)), (), str(file), origins), origins


def shipped(folder: str) -> list[Path]:
    """The YAML files that come with the launcher, in a checkout or in an installed package."""
    package = Path(__file__).parent.parent
    for root in (package.parent / folder, package / "_shipped" / folder):
        if root.is_dir():
            return sorted(root.glob("*.yaml"))
    return []


def dump(config: Strict, file: Path) -> None:
    """Write the resolved form: every default filled in, nothing inherited. Written aside, then renamed."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False  # the other style writes texts (such as ?0) that it cannot read
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = StringIO()
    yaml.dump(config.model_dump(mode="json"), text)
    write(file, text.getvalue())


def _find(name: str | Path, folder: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    known = {file.stem: file for file in shipped(folder)}
    if str(name) not in known:
        raise UserError(f"{name}: no such file, nor a shipped one of {folder}/ ({hint(str(name), known)})")
    return known[str(name)]


def _typed(kind: type[T], file: Path, overrides: Sequence[str]) -> Loaded[T]:
    problems: list[str | Problem] = []
    given = Document({})
    for text in overrides:
        try:
            given = _merge(given, _override(text), parts=True)
        except UserError as error:
            problems += error.problems
    document = _merge(_read(file, ()), given)
    try:
        typed = kind.model_validate(document.value)
    except ValidationError as error:
        raise UserError([*problems, *_lines(document, error)]) from None
    if problems:
        raise UserError(problems)
    return Loaded(typed, document)


def _lines(document: Document, error: ValidationError) -> list[str]:
    """`file:line: key: what`, one for each key. Where a value may be of several types, pydantic tells what each of
    them finds wrong: this is joined, but what is wrong deeper inside stands for what is wrong with the whole."""
    found: dict[Key, list[str]] = {}
    for e in error.errors():
        message = e["msg"].removeprefix("Value error, ").removeprefix("Input ").split(", unable to")[0]
        message = message[0].lower() + message[1:] if message[:1].isupper() else message
        missing = e["loc"][-1:] if e["type"] == "missing" else ()
        earlier = found.setdefault((*_path(document, e["loc"]), *missing), [])
        earlier.append(message.removeprefix("should be ") if earlier else message)
    inside = {path[:n] for path in found for n in range(len(path))}
    return [
        ": ".join([document.origin(path), *([".".join(map(str, path))] if path else []), ", or ".join(messages)])
        for path, messages in found.items()
        if path not in inside
    ]


def _path(document: Document, loc: Key) -> Key:
    """The keys of pydantic's path, which names branches of unions too: what is no key is left out."""
    path: Key = ()
    value: Any = document.value
    for part in loc:
        inside = isinstance(value, dict) and part in value
        if inside or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value, path = value[part], (*path, part)
    return path


def _read(file: Path, above: tuple[Path, ...]) -> Document:
    """A file and the files it inherits from by `base:`."""
    document = _parse(_text(file), str(file))
    base = document.value.pop("base", None)
    if base is None:
        return document
    where, above = f"{document.origin(('base',))}: base", (*above, file.resolve())
    if not isinstance(base, str):
        raise UserError(f"{where}: should be the name of a file")
    below = file.parent / base
    if not below.is_file():  # a copy of a shipped recipe inherits from a shipped one
        below = {f.name: f for f in (*shipped("recipes"), *shipped("cluster"))}.get(base, below)
    if not below.is_file():
        raise UserError(f"{where}: {below}: no such file")
    if below.resolve() in above:
        raise UserError(f"{where}: {below}: inherits from this file, in a circle")
    return _merge(_read(below, above), document)


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


def _parse(text: str, file: str) -> Document:
    tree = _tree(text, file)
    if not isinstance(tree, CommentedMap):
        raise UserError(f"{file}:1: should be a map of keys and values")
    document = Document({}, {(): f"{file}:1"})
    document.value = _plain(tree, (), file, document.origins)
    return document


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


def _override(text: str) -> Document:
    """`key.path=value`, the value as YAML."""
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise UserError(f"{_origin(text)}: an override has the form key.path=value")
    try:
        tree = YAML(typ="rt").load(value) if value.strip() else None
    except (YAMLError, ValueError, KeyError):
        raise UserError(f"{_origin(text)}: {value!r} is not valid YAML") from None
    inner: dict[Key, str] = {}
    nested = _plain(tree, tuple(parts), "", inner)
    for part in reversed(parts):
        nested = {part: nested}
    origins: dict[Key, str] = dict.fromkeys(inner, _origin(text))
    origins.update({tuple(parts[:n]): _origin(text) for n in range(1, len(parts) + 1)})
    return Document(nested, origins)


def _origin(override: str) -> str:
    """Where an override comes from: the words of the command line themselves, or a line of a file."""
    return override.origin if isinstance(override, Override) else repr(override)


def _merge(below: Document, above: Document, parts: bool = False) -> Document:
    """Maps merge, everything else is replaced; so is a map of another kind, whose keys mean something else.
    `parts`: a map without a kind is part of one of any kind, as with overrides, whose order should not matter."""
    origins = dict(below.origins)

    def kind(map_: dict[str, Any]) -> Any:
        return map_.get(
            "kind", "fraction" if "fraction" in map_ else None
        )  # a held-out share, where a source may stand

    def same(low: dict[str, Any], high: dict[str, Any]) -> bool:
        return kind(high) is None or kind(high) == (kind(low) or (kind(high) if parts else None))

    def merge(low: Any, high: Any, path: Key) -> Any:
        if isinstance(low, dict) and isinstance(high, dict) and (path == () or same(low, high)):
            merged = dict(low)
            for key, item in high.items():
                merged[key] = merge(low[key], item, (*path, key)) if key in low else item
            return merged
        for old in [o for o in origins if o[: len(path)] == path]:
            del origins[old]
        return high

    value = merge(below.value, above.value, ())
    for path, where in above.origins.items():
        if path and path in origins and _is_map(below.value, path) and _is_map(value, path):
            continue  # a map that both wrote keeps the line of the lower one; its keys have their own
        origins[path] = where
    return Document(value, origins)


def _is_map(value: Any, path: Key) -> bool:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    return isinstance(value, dict)
