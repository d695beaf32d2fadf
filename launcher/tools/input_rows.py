"""New rows of a user, for a model to be asked about: a file, a folder of images, or any source a recipe can name."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from launcher.config import document as documents
from launcher.config import kinds, messages, plugins
from launcher.config.columns import KeptColumn
from launcher.config.errors import UserError
from launcher.config.types import Plugin
from launcher.data import BadRow, Part, Row, csv
from launcher.data._source import SourceConfig

KEY = "--data"
_FILES: dict[str, dict[str, Any]] = {
    ".jsonl": {"kind": "jsonl"},
    ".csv": {"kind": "csv"},
    ".tsv": {"kind": "csv", "delimiter": "\t"},
    ".parquet": {"kind": "parquet"},
    ".arrow": {"kind": "arrow"},
    ".txt": {"kind": "text", "document": "line"},
}
_COLUMNS = SourceConfig.model_fields.keys() - {"kind", "limit", "on_bad_row"}


def source(data: str, train: Plugin) -> Any:
    """What `--data` names, as the Config of a source: its columns are called as in the source that the run was trained
    on, unless it says otherwise. Raises UserError."""
    given = _map(data) if data.lstrip().startswith("{") else _file(Path(data))
    while mixed := plugins.source(train).mixed():
        train = next(iter(mixed.values()))[0]
    try:
        module = kinds.module("data", str(given.get("kind")))
        columns = {name: getattr(train, name) for name in _COLUMNS & module.Config.model_fields.keys()}
        config = module.Config.model_validate({**columns, **given})
        if (
            isinstance(config, csv.Config)
            and isinstance(train, csv.Config)
            and config.delimiter == train.delimiter
            and "quote" not in given
        ):
            config = config.model_copy(update={"quote": train.quote})
    except ValidationError as error:
        wrong = [f"{KEY}: {'.'.join(map(str, e['loc']))}: {messages.of(e)}" for e in error.errors()]
        raise UserError(wrong) from None
    except ValueError as error:
        raise UserError(f"{KEY}: {error}") from None
    if plugins.source(config).mixed():
        raise UserError(f"{KEY}: a mixture is for training (name one source)")
    return config


def rows(config: Any, every: list[Part], columns: tuple[str, ...]) -> Iterator[Row | BadRow]:
    """All rows in their order, those of an image folder with their `file`; one that cannot be used as such where the
    source says to skip them, else it raises UserError."""
    for row in islice((row for part in every for row in _of(config, columns, part)), config.limit):
        if isinstance(row, BadRow) and (isinstance(row.missing, KeptColumn) or config.on_bad_row == "fail"):
            raise UserError(f"{row}{_advice(row, config)}")
        yield row


def _advice(row: BadRow, config: Any) -> str:
    """How to have a row read, or passed over."""
    if isinstance(row.missing, KeptColumn):
        return ""
    if row.missing:
        return f"; name the right one: {KEY} '{{kind: {config.kind}, path: {config.path}, {row.missing}: NAME}}'"
    return f" (or {KEY} '{{..., on_bad_row: skip}}', to have it told in its line)"


def _of(config: Any, columns: tuple[str, ...], part: Part) -> Iterator[Row | BadRow]:
    found: Iterator[Row | BadRow] = plugins.source(config).rows(columns, KEY, part)
    if config.kind != "image_folder":
        return found
    return (
        row if isinstance(row, BadRow) else {**row, "file": file} for file, row in zip(part.files, found, strict=True)
    )


def _map(text: str) -> dict[str, Any]:
    given = documents.of_text(text, KEY)
    if not isinstance(given, dict) or not isinstance(given.get("kind"), str):
        raise UserError(f"{KEY} {text}: needs a kind (there are: {', '.join(kinds.available('data'))})")
    return given


def _file(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return {"kind": "image_folder", "path": str(path)}
    if not path.is_file():
        raise UserError(f"{KEY} {path}: no such file")
    ending = path.with_suffix("").suffix if path.suffix in (".gz", ".zst") else path.suffix
    if ending not in _FILES:
        known = ", ".join(_FILES)
        what = f"a file of an unknown kind (known: {known}; or name it: {{kind: jsonl, path: {path}}})"
        raise UserError(f"{KEY} {path}: {what}")
    return {**_FILES[ending], "path": str(path)}
