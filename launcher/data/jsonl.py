"""JSON lines: an object a line."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from launcher.config.errors import UserError
from launcher.data._source import FilesConfig, files, fingerprint_files, limited, lines, pick


class Config(FilesConfig):
    kind: Literal["jsonl"] = "jsonl"


def fingerprint(config: Config, key: str) -> str:
    return fingerprint_files(config, key)


def rows(config: Config, columns: Sequence[str], key: str) -> Iterator[dict[str, Any]]:
    return limited(_rows(config, columns, key), config)


def _rows(config: Config, columns: Sequence[str], key: str) -> Iterator[dict[str, Any]]:
    for path in files(config, key):
        for number, line in lines(path):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: not valid JSON: {error.msg} at column {error.colno}") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number}: should be a JSON object, not {type(row).__name__}")
            yield pick(row, config, columns, f"{path}:{number}", key)
