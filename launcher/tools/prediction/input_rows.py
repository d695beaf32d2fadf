"""The rows of `--data`, from a file, a folder of images, or any source of a recipe."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from pydantic import ValidationError

from launcher.config import document as documents
from launcher.config import kinds, messages, plugins
from launcher.config.errors import UserError
from launcher.config.requested_columns import KeptColumn
from launcher.config.types import JsonObject, Plugin
from launcher.data import BadRow, Part, Row, Source, csv
from launcher.data._source import SourceConfig

KEY = "--data"
_SOURCES: dict[str, JsonObject] = {
    ".jsonl": {"kind": "jsonl"},
    ".csv": {"kind": "csv"},
    ".tsv": {"kind": "csv", "delimiter": "\t"},
    ".parquet": {"kind": "parquet"},
    ".arrow": {"kind": "arrow"},
    ".txt": {"kind": "text", "document": "line"},
}
"""Source of a file, by the file's suffix."""
_COLUMNS = SourceConfig.model_fields.keys() - {"kind", "limit", "on_bad_row"}


def source_config(data: str, train: Plugin) -> SourceConfig:
    """Return the Config of the source that `--data` names. By default, columns have the same names as in the training
    source. Raises UserError."""
    keys = _parse_map(data) if data.lstrip().startswith("{") else _file_source(Path(data))
    while mixed := plugins.source(train).mixed():
        train = next(iter(mixed.values()))[0]
    try:
        module = kinds.module("data", str(keys["kind"]))
        columns = train.model_dump(include=_COLUMNS & module.Config.model_fields.keys())
        config: SourceConfig = module.Config.model_validate({**columns, **keys})
    except ValidationError as error:
        wrong = [f"{KEY}: {'.'.join(map(str, e['loc']))}: {messages.of(e)}" for e in error.errors()]
        raise UserError(wrong) from None
    except ValueError as error:
        raise UserError(f"{KEY}: {error}") from None
    if plugins.source(config).mixed():
        raise UserError(f"{KEY}: a mixture is for training (name one source)")
    if isinstance(config, csv.Config) and isinstance(train, csv.Config) and "quote" not in keys:
        return config.model_copy(update={"quote": train.quote}) if config.delimiter == train.delimiter else config
    return config


def read_rows(
    config: SourceConfig, source: Source, parts: Sequence[Part], columns: tuple[str, ...]
) -> Iterator[Row | BadRow]:
    """Yield the rows in their order. Rows of an image folder have their file name as `file`.

    `source`: the source of the Config. Raises UserError for a bad row, unless the source skips bad rows.
    """
    every = (row for part in parts for row in _part_rows(config, source.rows(columns, KEY, part), part))
    for row in islice(every, config.limit):
        if isinstance(row, BadRow) and (isinstance(row.missing, KeptColumn) or config.on_bad_row == "fail"):
            raise UserError(f"{row}{_advice(row, config)}")
        yield row


def _advice(row: BadRow, config: SourceConfig) -> str:
    """Return advice on how to read or skip a bad row; may be empty."""
    if isinstance(row.missing, KeptColumn):
        return ""
    if row.missing:
        source = ", ".join(f"{key}: {value}" for key, value in config.model_dump(include={"kind", "path"}).items())
        return f"; name the right one: {KEY} '{{{source}, {row.missing}: NAME}}'"
    return f" (or {KEY} '{{..., on_bad_row: skip}}', to report it in its line)"


def _part_rows(config: SourceConfig, rows: Iterator[Row | BadRow], part: Part) -> Iterator[Row | BadRow]:
    if config.kind != "image_folder":
        return rows
    return (
        row if isinstance(row, BadRow) else {**row, "file": file} for file, row in zip(part.files, rows, strict=True)
    )


def _parse_map(text: str) -> JsonObject:
    keys = documents.of_text(text, KEY)
    if not isinstance(keys, dict) or not isinstance(keys.get("kind"), str):
        raise UserError(f"{KEY} {text}: needs a kind (there are: {', '.join(kinds.available('data'))})")
    return keys


def _file_source(path: Path) -> JsonObject:
    if path.is_dir():
        return {"kind": "image_folder", "path": str(path)}
    if not path.is_file():
        raise UserError(f"{KEY} {path}: no such file")
    suffix = path.with_suffix("").suffix if path.suffix in (".gz", ".zst") else path.suffix
    if suffix not in _SOURCES:
        known = ", ".join(_SOURCES)
        what = f"a file of an unknown kind (known: {known}; or name it: {{kind: jsonl, path: {path}}})"
        raise UserError(f"{KEY} {path}: {what}")
    return {**_SOURCES[suffix], "path": str(path)}
