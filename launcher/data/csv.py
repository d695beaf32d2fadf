"""Tables as text, with the names of the columns in the first line."""

import csv
import json
from collections.abc import Iterator, Sequence
from functools import partial
from io import StringIO
from itertools import chain
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BeforeValidator,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from launcher import data
from launcher.config.columns import KeptColumn, resolved
from launcher.config.errors import Problem, UserError
from launcher.config.format import plural
from launcher.data import BadRow, Part, Row, _columns
from launcher.data._columns import TEXTS
from launcher.data._lines import LONE_RETURNS, UTF_16, cut, read
from launcher.data._source import FilesConfig, check_columns, columns_of, files, fingerprint_files, pick


def _delimiter(value: Any) -> Any:
    """One character; the two of an escaped tab, which YAML leaves as they are in single quotes, are a tab."""
    value = "\t" if value == r"\t" else value
    if not (isinstance(value, str) and len(value) == 1 and value not in '"\r\n'):
        raise PydanticCustomError("delimiter", 'should be one character, no quote and no line break (a tab is "\\t")')
    return value


def _quote(value: Any) -> Any:
    value = None if value == "none" else value
    if not (value is None or (isinstance(value, str) and len(value) == 1 and value not in "\r\n")):
        raise PydanticCustomError("quote", "should be one character, or none: quotes are read as they are")
    return value


class Config(FilesConfig):
    """Rows of CSV or TSV files."""

    kind: Literal["csv"] = "csv"
    delimiter: Annotated[str, BeforeValidator(_delimiter)] = ","
    """Character between two fields; "\\t" for tabs."""
    quote: Annotated[str | None, BeforeValidator(_quote)] = '"'
    """Character around fields that contain delimiters or line breaks; none: no quoting, as in most TSV files."""

    @model_validator(mode="after")
    def _differ(self) -> "Config":
        if self.quote == self.delimiter:
            raise PydanticCustomError("quote", "quote and delimiter should differ")
        return self

    @model_serializer(mode="wrap")
    def _without_default(self, dump: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Without the default quote where names of prepared folders are formed, which are older than the key."""
        older = isinstance(info.context, dict) and info.context.get("identity")
        return {k: v for k, v in dump(self).items() if not (older and (k, v) == ("quote", '"'))}


class Source(data.Source):
    def __init__(self, config: Config):
        self.config = config

    def fingerprint(self, key: str) -> str:
        return fingerprint_files(self.config, key)

    def parts(self, key: str) -> list[Part]:
        """A file is never cut: whether an end of line is also the end of a row depends on all quotes before it."""
        return cut(files(self.config, key), ranges=False)

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        return chain.from_iterable(_rows(self.config, columns, key, file) for file in part.files)

    def notes(self, key: str, part: Part) -> list[str]:
        """A note for each file in which quoted fields hold line breaks: a lone quote joins rows that are no one row."""
        return [note for file in part.files if self.config.quote for note in _spanning(self.config, file, key)]


def _spanning(config: Config, file: str, key: str) -> list[str]:
    rows, lines, first = 0, 0, ""
    for one in _records(file, config):
        if isinstance(one, _Record) and one.lines > 1:
            rows, lines, first = rows + 1, lines + one.lines, first or one.where
    if not rows:
        return []
    what = f"line breaks inside quotes in {plural(rows, 'row')} of {file} ({lines:,} lines, the first at {first})"
    return [f"{what}; where quotes are part of the text, set {key}.quote: none"]


def _rows(config: Config, columns: Sequence[str], key: str, file: str) -> Iterator[Row | BadRow]:
    records = _records(file, config)
    header = _header(next(records, None), file)
    columns = resolved(columns, header)
    wanted = columns_of(config, columns)
    _check_delimiter(config, wanted, header, file, key)
    check_columns(config, columns, header, file, key)
    _check_once(wanted, header, file, key)
    plain = {column for column in wanted if column in TEXTS or isinstance(column, KeptColumn)}
    for record in records:
        if isinstance(record, BadRow):
            yield record
            continue
        where, fields, lines = record
        if len(fields) != len(header):
            lone = f"over {lines} lines: a lone quote? quote: none reads quotes as they are"
            why = lone if lines > 1 else f"is a {config.delimiter!r} without quotes?"
            yield BadRow(where, f"has {len(fields)} fields, the header {len(header)} ({why})")
            continue
        row = {wanted[c]: fields[header.index(wanted[c])] or ("" if c in plain else None) for c in wanted}
        picked = pick(row, config, columns, partial(str, where), key)
        yield (_not_utf8(row, where) or picked) if isinstance(picked, BadRow) else picked


class _Record(NamedTuple):
    """`where`: file:line of its first line. `lines`: how many it takes."""

    where: str
    fields: list[str]
    lines: int


def _records(file: str, config: Config) -> Iterator[_Record | BadRow]:
    """Each record. Raises UserError for a compressed file that is damaged, a file that is not UTF-8 throughout, or a
    quote that is never closed."""
    csv.field_size_limit(max(_columns.ROW, csv.field_size_limit()))  # of the whole process: never lower
    feed = _Feed(file)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if config.quote else csv.QUOTE_NONE
    reader = csv.reader(feed, delimiter=config.delimiter, quotechar=config.quote, quoting=quoting, strict=True)
    while True:
        begin = feed.count
        where = f"{file}:{begin + 1}"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except _TooLongError as error:
            yield error.bad
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise UserError(f"{where}: {_never_closed(feed.count - begin)}") from None
            yield BadRow(where, _invalid(str(error)))
        else:
            if fields:
                yield _Record(where, fields, feed.count - begin)


def _never_closed(lines: int) -> str:
    what = f"a quote is opened here and never closed, so that {plural(lines, 'line')} to the end are one row"
    return f"{what} (quote: none reads quotes as they are)"


def _invalid(error: str) -> str:
    if "new-line character" in error:
        return rf"not valid CSV: new-line character \r inside a field ({LONE_RETURNS})"
    return f"not valid CSV: {error}"


class _TooLongError(Exception):
    def __init__(self, bad: BadRow):
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
        if isinstance(line, BadRow):
            raise _TooLongError(line)
        return line

    def _split(self, file: str) -> Iterator[str | BadRow]:
        for lines in read(file, errors="surrogateescape"):
            yield from [lines.bad] if lines.bad else StringIO(lines.text, newline="\n")


def _header(record: _Record | BadRow | None, file: str) -> list[str]:
    if record is None:
        raise UserError(f"{file}: is empty: its first line should name the columns")
    if isinstance(record, BadRow):
        raise UserError(str(record))
    return [name.encode(errors="replace").decode() for name in record.fields]


def _check_delimiter(config: Config, wanted: dict[str, str], header: list[str], file: str, key: str) -> None:
    """Raises UserError for a header that another delimiter would cut into columns, where one is missing."""
    if set(wanted.values()) <= set(header):
        return
    if any("\0" in name for name in header):
        raise UserError(f"{file}: its first line holds NUL bytes: is it UTF-16? ({UTF_16})")
    if len(header) > 1:
        return
    counts = {other: header[0].count(other) for other in ",;\t|" if other != config.delimiter}
    other = max(counts, key=counts.__getitem__)
    if counts[other]:
        what = f"{file}: its first line has no {config.delimiter!r} but {counts[other]} of {other!r}"
        raise UserError(Problem(f"{key}.delimiter", f"{what} (delimiter: {json.dumps(other)})"))


def _check_once(wanted: dict[str, str], header: list[str], file: str, key: str) -> None:
    """Raises UserError for a name that two columns share."""
    twice = [(column, name) for column, name in wanted.items() if header.count(name) > 1]
    if twice:
        raise UserError([Problem(f"{key}.{c}", f"{file}: has {header.count(n)} columns named {n!r}") for c, n in twice])


def _not_utf8(row: Row, where: str) -> BadRow | None:
    for name, value in row.items():
        for character in value or "":
            if "\udc80" <= character <= "\udcff":
                at = f"byte 0x{ord(character) - 0xDC00:02x} in column {name!r}"
                return BadRow(where, f"not UTF-8 ({at}): convert the file, for example by iconv -f latin1 -t utf-8")
    return None
