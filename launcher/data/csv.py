"""Tables as text, with the names of the columns in the first line."""

import csv
from collections.abc import Iterator, Sequence
from io import StringIO
from itertools import chain
from typing import Literal

from pydantic import Field

from launcher.config.columns import Kept, resolved
from launcher.config.errors import Problem, UserError
from launcher.data import Bad, Part, Row, _columns
from launcher.data._columns import TEXTS
from launcher.data._lines import cut, read
from launcher.data._source import FilesConfig, check_columns, columns_of, files, fingerprint_files, pick


class Config(FilesConfig):
    """`delimiter`: what stands between two fields; "\\t" for tabs."""

    kind: Literal["csv"] = "csv"
    delimiter: str = Field(",", pattern=r'^[^"\r\n]$')


def fingerprint(config: Config, key: str) -> str:
    return fingerprint_files(config, key)


def parts(config: Config, key: str) -> list[Part]:
    """A file is never cut: whether an end of line is also the end of a row depends on all quotes before it."""
    return cut(files(config, key), ranges=False)


def rows(config: Config, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | Bad]:
    return chain.from_iterable(_rows(config, columns, key, file) for file in part.files)


def _rows(config: Config, columns: Sequence[str], key: str, file: str) -> Iterator[Row | Bad]:
    records = _records(file, config.delimiter)
    header = _header(next(records, None), file)
    columns = resolved(columns, header)
    check_columns(config, columns, header, file, key)
    wanted = columns_of(config, columns)
    _check_once(wanted, header, file, key)
    plain = {column for column in wanted if column in TEXTS or isinstance(column, Kept)}
    for record in records:
        if isinstance(record, Bad):
            yield record
            continue
        where, fields = record
        if len(fields) != len(header):
            what = f"has {len(fields)} fields, the header {len(header)} (is a {config.delimiter!r} without quotes?)"
            yield Bad(where, what)
            continue
        row = {wanted[c]: fields[header.index(wanted[c])] or ("" if c in plain else None) for c in wanted}
        picked = pick(row, config, columns, lambda where=where: where, key)
        yield (_not_utf8(row, where) or picked) if isinstance(picked, Bad) else picked


def _records(file: str, delimiter: str) -> Iterator[tuple[str, list[str]] | Bad]:
    """Each record with file:line of its first line. Raises UserError for a compressed file that is damaged."""
    csv.field_size_limit(max(_columns.ROW, csv.field_size_limit()))  # of the whole process: never lower
    feed = _Feed(file)
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        where = f"{file}:{feed.count + 1}"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except _TooLongError as error:
            yield error.bad
        except csv.Error as error:
            open_quote = "unexpected end" in str(error)
            yield Bad(where, "a quote is opened here and never closed" if open_quote else f"not valid CSV: {error}")
        else:
            if fields:
                yield where, fields


class _TooLongError(Exception):
    def __init__(self, bad: Bad):
        super().__init__(bad)
        self.bad = bad


class _Feed:
    """A file's lines for csv.reader, and how many it has taken. Bytes that are not UTF-8 go through it as lone
    surrogates, so that a quote which spans lines keeps its end; a line that is too long is raised in its place."""

    def __init__(self, file: str):
        self.count = 0
        self._lines = self._split(file)

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.count += 1
        if isinstance(line, Bad):
            raise _TooLongError(line)
        return line

    def _split(self, file: str) -> Iterator[str | Bad]:
        for lines in read(file, errors="surrogateescape"):
            yield from [lines.bad] if lines.bad else StringIO(lines.text, newline="\n")


def _header(record: tuple[str, list[str]] | Bad | None, file: str) -> list[str]:
    if record is None:
        raise UserError(f"{file}: is empty: its first line should name the columns")
    if isinstance(record, Bad):
        raise UserError(str(record))
    return [name.encode(errors="replace").decode() for name in record[1]]


def _check_once(wanted: dict[str, str], header: list[str], file: str, key: str) -> None:
    """Raises UserError for a name that two columns share."""
    twice = [(column, name) for column, name in wanted.items() if header.count(name) > 1]
    if twice:
        raise UserError([Problem(f"{key}.{c}", f"{file}: has {header.count(n)} columns named {n!r}") for c, n in twice])


def _not_utf8(row: Row, where: str) -> Bad | None:
    for name, value in row.items():
        for character in value or "":
            if "\udc80" <= character <= "\udcff":
                at = f"byte 0x{ord(character) - 0xDC00:02x} in column {name!r}"
                return Bad(where, f"not UTF-8 ({at}): convert the file, for example by iconv -f latin1 -t utf-8")
    return None
