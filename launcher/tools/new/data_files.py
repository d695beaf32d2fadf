"""The source of a recipe that reads a given file or folder: its kind, and for tables the delimiter and quote."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from launcher.config import kinds, plugins
from launcher.config.atomic_files import expanded
from launcher.config.errors import UserError, shown
from launcher.config.requested_columns import EVERY, KEPT
from launcher.config.types import Plugin
from launcher.data import BadRow, Row

_KINDS = {
    ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".parquet": "parquet", ".txt": "text", ".text": "text", ".md": "text",
}  # fmt: skip
_COMPRESSED = (".gz", ".zst")
_SHORT_FILE = 20_000
"""Mean bytes of the files of a folder below which each file is one document."""
_TRIED = 200
"""Rows that are read to compare delimiters."""


def source(data: str) -> Plugin:
    """Return the Config of the source that reads a file, or the files of a folder. Raises UserError."""
    path = expanded(data)
    if not path.exists():
        raise UserError(f"{shown(data)}: no such file")
    kind, pattern = _of_folder(path, data) if path.is_dir() else (_kind(path), data)
    if kind is None:
        raise UserError(f"{shown(data)}: no format that is known ({', '.join(_KINDS)}, also with .gz)")
    if kind == "csv":
        return _table(pattern, tabs=_suffix(path) in (".tsv", ".tab"))
    return _config(kind, {"path": pattern, **(_document(path) if kind == "text" else {})})


def rows(config: Plugin, columns: tuple[str, ...] = (EVERY,)) -> Iterator[Mapping[str, object] | BadRow]:
    """Yield the rows of a source with all columns under their own names, or with these columns. Raises UserError."""
    reader = plugins.source(config)
    for part in reader.parts("DATA"):
        for row in reader.rows(columns, "DATA", part):
            yield row if isinstance(row, BadRow) else _checked(_plain(row))


def _plain(row: Row) -> Mapping[str, object]:
    kept = row.get(KEPT)
    return kept if isinstance(kept, dict) else row


def _checked(row: Mapping[str, object]) -> Mapping[str, object]:
    """Return the row. Raises UserError if a text in it was not UTF-8, which the reader keeps as lone surrogates."""
    for name, value in row.items():
        if isinstance(value, str) and not value.isascii() and any("\udc80" <= c <= "\udcff" for c in value):
            advice = "convert the file, for example by iconv -f latin1 -t utf-8"
            raise UserError(f"DATA: column {shown(name)!r} is not UTF-8 ({advice})")
    return row


def _suffix(path: Path) -> str:
    return next((suffix.lower() for suffix in reversed(path.suffixes) if suffix.lower() not in _COMPRESSED), "")


def _kind(path: Path) -> str | None:
    return _KINDS.get(_suffix(path))


def _of_folder(folder: Path, data: str) -> tuple[str, str]:
    """Return the kind of most files of a folder, and their glob. Raises UserError."""
    for inner in ("*", "**/*"):
        files = [file for file in folder.glob(inner) if file.is_file()]
        found = Counter(suffix for file in files if (suffix := file.suffix.lower()) in _KINDS)
        if found:
            suffix = found.most_common(1)[0][0]
            ending = next(file.suffix for file in files if file.suffix.lower() == suffix)
            return _KINDS[suffix], f"{data.rstrip('/')}/{inner}{ending}"
    raise UserError(f"{shown(data)}: a folder without files of texts or tables ({', '.join(_KINDS)})")


def _document(path: Path) -> dict[str, str]:
    """Return the key that defines a document: a short file, a paragraph, or a line if no lines are blank."""
    files = [file for file in path.rglob("*") if _kind(file) == "text"] if path.is_dir() else [path]
    if path.is_dir() and sum(file.stat().st_size for file in files) < _SHORT_FILE * len(files):
        return {"document": "file"}
    config = _config("text", {"path": str(files[0]), "document": "paragraph"})
    found = [row for row in islice(rows(config, ("text",)), 2) if not isinstance(row, BadRow)]
    return {"document": "paragraph" if len(found) > 1 else "line"}


def _table(path: str, tabs: bool) -> Plugin:
    """Return the Config for a table, with the delimiter and quote that divide its first rows into the same number of
    fields. Raises UserError with the mistake of the most common ones."""
    best, lowest, mistake = None, (0.0, 0), None
    for delimiter in ("\t", ",", ";", "|") if tabs else (",", ";", "\t", "|"):
        for quote in ('"', "none"):
            config = _config("csv", {"path": path, "delimiter": delimiter, "quote": quote})
            try:
                found = list(islice(rows(config), _TRIED))
            except UserError as error:
                mistake = mistake or error
                continue
            bad = sum(isinstance(row, BadRow) for row in found)
            fields = max((len(row) for row in found if not isinstance(row, BadRow)), default=0)
            score = (bad / max(1, len(found)), -fields)
            if best is None or score < lowest:
                best, lowest = config, score
    if best is None:
        raise mistake or UserError(f"{shown(path)}: no table")
    return best


def _config(kind: str, keys: dict[str, str]) -> Plugin:
    return kinds.config_class("data", kind, Plugin).model_validate({"kind": kind, **keys})
