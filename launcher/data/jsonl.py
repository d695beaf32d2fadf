"""JSON Lines files: one object per line."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Literal

from pydantic_core import from_json

from launcher.data import BadRow, Part, Row
from launcher.data._files import FilesSource, files
from launcher.data._lines import LONE_RETURNS, file_parts, line_places, read_lines
from launcher.data._source import FilesConfig, canonical_row


class Config(FilesConfig):
    """Rows of JSON Lines files."""

    kind: Literal["jsonl"] = "jsonl"


class Source(FilesSource):
    config: Config

    def parts(self, key: str) -> list[Part]:
        return file_parts(files(self.config, key))

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        return chain.from_iterable(_rows(self.config, columns, key, file, part) for file in part.files)

    def places(self, key: str, part: Part) -> Iterator[Callable[[], str]]:
        return chain.from_iterable(line_places(file, part.start, part.stop) for file in part.files)


def _rows(config: Config, columns: Sequence[str], key: str, file: str, part: Part) -> Iterator[Row | BadRow]:
    for lines in read_lines(file, part.start, part.stop):
        if lines.bad:
            yield lines.bad
        for number, line in enumerate(lines.text.split("\n")):
            if line and not line.isspace():
                where = partial(lines.where, number)
                row = _parse(line, where)
                yield row if isinstance(row, BadRow) else canonical_row(row, config, columns, where, key)


def _parse(line: str, where: Callable[[], str]) -> Row | BadRow:
    try:
        row = from_json(line, cache_strings="keys")  # twice as fast as json, but stricter, with poorer messages
    except ValueError:
        row = _parse_slowly(line, where)
    if isinstance(row, dict | BadRow):
        return row
    return BadRow(where(), f"should be a JSON object, not {type(row).__name__}")


def _parse_slowly(line: str, where: Callable[[], str]) -> object:
    try:
        value: object = json.loads(line)
        return value
    except json.JSONDecodeError as error:
        returns = f" ({LONE_RETURNS})" if "\r" in line.strip() else ""
        return BadRow(where(), f"not valid JSON: {error.msg} at column {error.colno}{returns}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of open brackets
        return BadRow(where(), f"JSON that cannot be read: {error}")
