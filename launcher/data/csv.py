"""CSV and TSV files, with the names of the columns in the first line."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from itertools import islice
from typing import Annotated, Literal, NamedTuple

from pydantic import (
    BeforeValidator,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from launcher.config.errors import Problem, UserError
from launcher.config.format import plural
from launcher.config.requested_columns import KeptColumn, resolved
from launcher.data import TEXTS, BadRow, Part, Row, _columns
from launcher.data._files import FilesSource, files
from launcher.data._lines import LONE_RETURNS, UTF_16, file_parts, read_lines
from launcher.data._source import FilesConfig, canonical_row, check_columns, source_columns


def _delimiter(value: object) -> str:
    """Return a delimiter: one character, or a tab for \\t, which YAML does not unescape in single quotes.

    Raises PydanticCustomError for any other value.
    """
    value = "\t" if value == r"\t" else value
    if not (isinstance(value, str) and len(value) == 1 and value not in '"\r\n'):
        raise PydanticCustomError("delimiter", 'should be one character, no quote and no line break (a tab is "\\t")')
    return value


def _quote(value: object) -> str | None:
    """Return a quote: one character, or None for none. Raises PydanticCustomError for any other value."""
    value = None if value == "none" else value
    if not (value is None or (isinstance(value, str) and len(value) == 1 and value not in "\r\n")):
        raise PydanticCustomError("quote", "should be one character, or none: quotes are read as they are")
    return value


_DelimiterWritten = Annotated[str, Field(pattern=r"^([^\"\r\n]|\\t)$")]
_QuoteWritten = Annotated[str, Field(pattern=r"^([^\r\n]|none)$")] | None


class Config(FilesConfig):
    """Rows of CSV or TSV files."""

    kind: Literal["csv"] = "csv"
    delimiter: Annotated[str, BeforeValidator(_delimiter, json_schema_input_type=_DelimiterWritten)] = ","
    """Character between two fields; "\\t" for tabs."""
    quote: Annotated[str | None, BeforeValidator(_quote, json_schema_input_type=_QuoteWritten)] = '"'
    """Character around fields that contain delimiters or line breaks; none: no quoting, as in most TSV files."""

    @model_validator(mode="after")
    def _check_difference(self) -> "Config":
        if self.quote == self.delimiter:
            raise PydanticCustomError("quote", "quote and delimiter should differ")
        return self

    @model_serializer(mode="wrap")
    def _without_default(self, dump: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, object]:
        """Leave out the default quote when the name of a prepared folder is computed.

        Such names are older than the key.
        """
        older = isinstance(info.context, dict) and info.context.get("identity")
        return {k: v for k, v in dump(self).items() if not (older and (k, v) == ("quote", '"'))}


class Source(FilesSource):
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self._breaks: dict[str, _QuotedBreaks] = {}  # by file, as far as it has been read

    def parts(self, key: str) -> list[Part]:
        """Group whole files: whether an end of line also ends a row depends on all quotes before it."""
        return file_parts(files(self.config, key), ranges=False)

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        for file in part.files:
            yield from _rows(self.config, columns, key, file, self._records(file))

    def places(self, key: str, part: Part) -> Iterator[Callable[[], str]]:
        for file in part.files:
            yield from (partial(str, record.where) for record in islice(_records(file, self.config), 1, None))

    def notes(self, key: str, part: Part) -> list[str]:
        """Return a note on each file whose quoted fields hold line breaks, as far as the file was read.

        The cause may be a lone quote, which joins rows that do not belong together.
        """
        found = {file: self._breaks[file] for file in part.files if self.config.quote and file in self._breaks}
        return [breaks.note(file, key) for file, breaks in found.items() if breaks.rows]

    def _records(self, file: str) -> "Iterator[_Record | BadRow]":
        """Yield each record of a file, and count line breaks inside quotes."""
        breaks = self._breaks[file] = _QuotedBreaks()
        for record in _records(file, self.config):
            if isinstance(record, _Record) and record.lines > 1:
                breaks.rows, breaks.lines = breaks.rows + 1, breaks.lines + record.lines
                breaks.first = breaks.first or record.where
            yield record


@dataclass
class _QuotedBreaks:
    """Line breaks inside quotes.

    `rows`: number of rows with such a break. `lines`: number of all lines of these rows. `first`: place of the first
    such row.
    """

    rows: int = 0
    lines: int = 0
    first: str = ""

    def note(self, file: str, key: str) -> str:
        """Return the note about a file for the user."""
        what = f"line breaks inside quotes in {plural(self.rows, 'row')} of {file} ({self.lines:,} lines, the first at"
        return f"{what} {self.first}); where quotes are part of the text, set {key}.quote: none"


def _rows(
    config: Config, columns: Sequence[str], key: str, file: str, records: "Iterator[_Record | BadRow]"
) -> Iterator[Row | BadRow]:
    header = _header(next(records, None), file)
    columns = resolved(columns, header)
    wanted = source_columns(config, columns)
    _check_delimiter(config, wanted, header, file, key)
    check_columns(config, columns, header, file, key)
    _check_unique(wanted, header, file, key)
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
        cells = {wanted[c]: fields[header.index(wanted[c])] or ("" if c in plain else None) for c in wanted}
        row = canonical_row(cells, config, columns, partial(str, where), key)
        yield (_not_utf8(cells, where) or row) if isinstance(row, BadRow) else row


class _Record(NamedTuple):
    """A row of a file. `where`: file:line of its first line. `lines`: number of its lines."""

    where: str
    fields: list[str]
    lines: int


def _records(file: str, config: Config) -> Iterator[_Record | BadRow]:
    """Yield each record. Raises UserError for a damaged compressed file and for a quote that is never closed."""
    csv.field_size_limit(max(_columns.MAX_ROW, csv.field_size_limit()))  # the limit of the process is never lowered
    feed = _LineFeed(file)
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


class _LineFeed:
    """The lines of a file for csv.reader. `count`: number of lines that the reader has taken.

    Invalid UTF-8 becomes lone surrogates, so that a quoted field over several lines keeps its end. In place of a line
    that is too long, _TooLongError is raised.
    """

    def __init__(self, file: str):
        self.count = 0
        self._lines = self._split(file)

    def __iter__(self) -> "_LineFeed":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.count += 1
        if isinstance(line, BadRow):
            raise _TooLongError(line)
        return line

    def _split(self, file: str) -> Iterator[str | BadRow]:
        for lines in read_lines(file, errors="surrogateescape"):
            yield from [lines.bad] if lines.bad else StringIO(lines.text, newline="\n")


def _header(record: _Record | BadRow | None, file: str) -> list[str]:
    if record is None:
        raise UserError(f"{file}: is empty: its first line should name the columns")
    if isinstance(record, BadRow):
        raise UserError(str(record))
    return [name.encode(errors="replace").decode() for name in record.fields]


def _check_delimiter(config: Config, wanted: dict[str, str], header: list[str], file: str, key: str) -> None:
    """Raise UserError if a column is missing and another delimiter would split the header."""
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


def _check_unique(wanted: dict[str, str], header: list[str], file: str, key: str) -> None:
    """Raise UserError if two columns of the file have the name of a requested column."""
    repeated = [(column, name) for column, name in wanted.items() if header.count(name) > 1]
    if repeated:
        problems = {column: f"{file}: has {header.count(name)} columns named {name!r}" for column, name in repeated}
        raise UserError([Problem(f"{key}.{column}", problem) for column, problem in problems.items()])


def _not_utf8(cells: Mapping[str, str | None], where: str) -> BadRow | None:
    """Return a BadRow for the first byte of a row that is not UTF-8; None: there is none."""
    for name, value in cells.items():
        for character in value or "":
            if "\udc80" <= character <= "\udcff":
                at = f"byte 0x{ord(character) - 0xDC00:02x} in column {name!r}"
                return BadRow(where, f"not UTF-8 ({at}): convert the file, for example by iconv -f latin1 -t utf-8")
    return None
