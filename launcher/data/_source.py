"""What sources share: the names of columns, files, their fingerprints and how they are cut in parts."""

import glob
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import xxhash
from pydantic import Field

from launcher.config.atomic_files import exists, expanded, write
from launcher.config.columns import EVERY, KEPT, KeptColumn
from launcher.config.errors import Problem, UserError
from launcher.config.types import Plugin
from launcher.data import BadRow, Part, Row, _columns
from launcher.storage import cache_root

PART = 32 * 2**20
"""Bytes of a part, about."""

_RACY = 2.0
"""Seconds in which a file may be written again without another time of change, on coarse file systems."""


class SourceConfig(Plugin):
    """Keys of every source. `text: body` reads the text from column body."""

    limit: int | None = Field(None, gt=0)
    """Number of rows to read, from the first on. Default: all."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """What happens at an unusable row: the preparation fails, or the row is skipped and counted."""
    text: str = "text"
    """Column of the text."""
    text_pair: str | None = None
    """Column of a second text."""
    label: str = "label"
    """Column of the label or number."""
    target: str = "target"
    """Column of the target text or number."""
    words: str = "words"
    """Column of a list of words."""
    labels: str = "labels"
    """Column of a list of labels."""
    question: str = "question"
    """Column of the question."""
    context: str = "context"
    """Column of the context."""
    answers: str = "answers"
    """Column of the answers."""
    features: list[str] | str = "features"
    """Column of a list of numbers, or a list of columns of numbers."""
    image: str = "image"
    """Column of the image."""


class FilesConfig(SourceConfig):
    """Keys of every source that reads files."""

    path: str | list[str]
    """File or glob, or a list of them. An existing path is not expanded as a glob."""


def files(config: FilesConfig, key: str) -> list[Path]:
    """Every file of `path`, sorted, each once. Raises UserError for a pattern without a file."""
    return _matched(config.path, Path.is_file, "file", key)


def folders(config: FilesConfig, key: str) -> list[Path]:
    """Every folder of `path`, sorted, so that one within another comes after it. Raises UserError for a pattern without
    a folder."""
    return _matched(config.path, Path.is_dir, "folder", key)


def _matched(path: str | list[str], wanted: Callable[[Path], bool], what: str, key: str) -> list[Path]:
    patterns = [path] if isinstance(path, str) else path
    found: set[Path] = set()
    for pattern in patterns:
        here = [path for path in _matches(expanded(pattern), wanted) if wanted(path)]
        if not here:
            raise UserError(Problem(f"{key}.path", f"{pattern}: no such {what}"))
        found.update(here)
    return sorted(found)


def _matches(pattern: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """What a path or glob names: the path itself where it exists as what is wanted. Else its leading folders that exist
    are taken as they are, brackets and stars included, and what follows is the glob."""
    if exists(pattern) and wanted(pattern):
        return [pattern]
    literal = next((folder for folder in pattern.parents if folder.parts and exists(folder)), Path())
    rest = pattern.relative_to(literal)
    found = glob.glob(str(Path(glob.escape(str(literal))) / rest), recursive=True)  # noqa: PTH207
    return [Path(name) for name in found]


def fingerprint_files(config: FilesConfig, key: str) -> str:
    """A hash of the files' bytes, whatever their names."""
    return fingerprint_of((path.stat().st_size, file_hash(path)) for path in files(config, key))


def fingerprint_folder(folder: Path) -> str:
    """A hash of the bytes and the names of all files below a folder, wherever it is."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return fingerprint_of((str(path.relative_to(folder)), file_hash(path)) for path in found)


def fingerprint_of(parts: Iterable[Any]) -> str:
    """One hash of several fingerprints, sizes or names, in their order."""
    return xxhash.xxh3_128_hexdigest(json.dumps(list(parts)).encode())


def file_hash(path: Path) -> str:
    """A hash of a file's bytes. It is remembered for as long as the file does not change, so that a large corpus is not
    read again at each plan. Raises UserError for a file that cannot be read."""
    try:
        return _file_hash(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _file_hash(path: Path) -> str:
    begin, identity = time.time(), _identity(path)
    memory = cache_root.root() / "fingerprints" / f"{xxhash.xxh3_128_hexdigest(str(path.absolute()).encode())}.json"
    if known := _remembered(memory, identity):
        return known
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    made = state.hexdigest()
    if path.stat().st_mtime < begin - _RACY and _identity(path) == identity:
        _remember(memory, identity, made)
    return made


def _identity(path: Path) -> str:
    stat = path.stat()
    return f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def _remembered(memory: Path, identity: str) -> str | None:
    """The hash that was noted for this identity. A note that is damaged is none."""
    try:
        note = json.loads(memory.read_text(encoding="utf-8"))
        whole = note["check"] == _check(identity, note["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(note["hash"]) if whole else None


def _remember(memory: Path, identity: str, made: str) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write(memory, json.dumps({"file": identity, "hash": made, "check": _check(identity, made)}))
    except (OSError, UnicodeEncodeError):  # a cache that cannot be written costs time only
        return


def _check(identity: str, made: str) -> str:
    return xxhash.xxh3_128_hexdigest(f"{identity} {made}".encode())


def grouped(files: Iterable[tuple[Path, int]], pieces: Callable[[Path], Sequence[Part]] | None = None) -> list[Part]:
    """Files with their sizes in bytes as parts, in their order: neighbours that are small together, and of each that is
    larger than a part its `pieces`."""
    parts: list[Part] = []
    group: list[str] = []
    together = 0

    def close() -> None:
        nonlocal group, together
        if group:
            parts.append(Part(tuple(group), size=together))
        group, together = [], 0

    for file, size in files:
        if together + size > PART:
            close()
        if size > PART and pieces:
            parts += pieces(file)
        else:
            group.append(str(file))
            together += size
    close()
    return parts


def columns_of(config: SourceConfig, columns: Sequence[str]) -> dict[str, str]:
    """What is asked for -> how the column is called in the source; of one that is made of several, each. A column
    without a name is left out."""
    named = dict[str, str]()
    for column in columns:
        name = _name(config, column)
        if isinstance(name, list):
            named |= {f"{column}[{number}]": one for number, one in enumerate(name)}
        elif name is not None:
            named[column if isinstance(column, KeptColumn) else str(column)] = name
    return named


def _name(config: SourceConfig, column: str) -> str | list[str] | None:
    """What a column is called in the source."""
    return column.name if isinstance(column, KeptColumn) else getattr(config, column)


def _key(key: str, column: str) -> str:
    """What a message about a column begins with."""
    return "--keep" if isinstance(column, KeptColumn) else f"{key}.{column}"


def check_columns(config: SourceConfig, columns: Sequence[str], there: Sequence[str], what: str, key: str) -> None:
    """Raises UserError for columns that a table does not have at all. `what`: the table, for the message."""
    known = ", ".join(there)
    missing = [(column, name) for column, name in columns_of(config, columns).items() if name not in there]
    if missing:
        told = {column: f"{what}: no column {name!r} (there are: {known})" for column, name in missing}
        raise UserError([Problem(_key(key, column), problem) for column, problem in told.items()])


def pick(
    row: Mapping[str, Any], config: SourceConfig, columns: Sequence[str], where: Callable[[], str], key: str
) -> Row | BadRow:
    """A source's row with the canonical names, or what is wrong with it. `where`: makes file:line or the like, which
    only a bad row needs."""
    picked: Row = {}
    kept: Row = {}
    for column in columns:
        name = _name(config, column)
        if name is None:
            continue
        if column == EVERY:
            kept |= row
            continue
        if missing := [one for one in _listed(name) if one not in row]:
            there = ", ".join(map(str, row))
            return BadRow(where(), f"{_key(key, column)}: no column {missing[0]!r} (there are: {there})", column)
        if isinstance(column, KeptColumn):
            kept[column.name] = row[column.name]
            continue
        given = [row[one] for one in name] if isinstance(name, list) else row[name]
        try:
            picked[str(column)] = _columns.value(column, name, given)
        except ValueError as error:
            return BadRow(where(), f"{key}.{column}: {error}")
    if kept:
        picked[KEPT] = kept
    what = _columns.together(picked)
    return BadRow(where(), f"{key}: {what}") if what else picked


def _listed(name: str | list[str]) -> list[str]:
    return name if isinstance(name, list) else [name]
