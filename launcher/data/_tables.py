"""Rows of Arrow tables, read a batch of the requested columns at a time: for the kinds parquet, arrow and hub."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from launcher.config.requested_columns import Column, resolved
from launcher.data import BadRow, Part, Row, SourceConfig
from launcher.data._files import row_ranges
from launcher.data._source import canonical_row, check_columns, source_columns

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

_BATCH_ROWS, _BATCH_BYTES = 1024, 8 * 2**20


def batch_rows(rows: int, size: int) -> int:
    """Return the number of rows to hold at once, for a table of `rows` rows and `size` bytes."""
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * rows // max(size, 1)))


def table_rows(
    table: "pa.Table | pa.RecordBatch",
    config: SourceConfig,
    columns: Sequence[str],
    key: str,
    where: Callable[[int], str],
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Row | BadRow]:
    """Yield the rows of a table. `where(n)`: returns the place of row n.

    `labels`: canonical column -> names of the classes, which replace the numbers in the column.
    """
    names = list(dict.fromkeys(source_columns(config, columns).values()))
    for number, values in enumerate(zip(*(_values(table.column(name)) for name in names), strict=True)):
        row = canonical_row(dict(zip(names, values, strict=True)), config, columns, partial(where, number), key)
        yield _with_label_names(row, labels, partial(where, number), key) if labels else row


def _values(column: "pa.Array | pa.ChunkedArray") -> list[object]:
    """Return the values of a column. Arrow does not check UTF-8: a text with other bytes is returned as bytes."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: "pa.Scalar") -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes()


def _with_label_names(
    row: Row | BadRow, labels: Mapping[str, Sequence[str]], where: Callable[[], str], key: str
) -> Row | BadRow:
    if isinstance(row, BadRow):
        return row
    named = dict(row)
    for column, names in labels.items():
        try:
            named[column] = _names(row[column], names)
        except LookupError as error:  # the hub writes -1 for a missing label
            return BadRow(where(), f"{key}.{column}: has no label ({error}): choose another split")
    return named


def _names(value: Any, names: Sequence[str]) -> object:
    """Return the name of the class of a number, or the names of a list of numbers.

    A number may be written in digits. Raises LookupError for a number without a name.
    """
    if value is None:  # a word whose label is -100
        return None
    if isinstance(value, list):
        return [_names(one, names) for one in value]
    if not 0 <= int(value) < len(names):
        raise LookupError(value)
    return names[int(value)]


def dataset_parts(dataset: "datasets.Dataset") -> list[Part]:
    """Divide a dataset into ranges of rows."""
    return row_ranges(len(dataset), max(dataset.data.nbytes // max(len(dataset.data), 1), 1))


def dataset_rows(
    dataset: "datasets.Dataset", name: str, config: SourceConfig, columns: Sequence[str], key: str, part: Part
) -> Iterator[Row | BadRow]:
    """Yield the rows of a part of a dataset. `name`: its name for messages. Raises UserError if it lacks a column."""
    columns = resolved(columns, dataset.column_names)
    check_columns(config, columns, dataset.column_names, name, key)
    wanted = source_columns(config, columns)
    label_columns = [c for c in columns if c in ("label", "labels") and not _wants_number(c)]
    class_names = {str(column): _class_names(dataset.features[wanted[column]]) for column in label_columns}
    labels = {column: names for column, names in class_names.items() if names}
    stop = len(dataset) if part.stop is None else min(part.stop, len(dataset))
    at = part.start
    chosen = dataset.select(range(at, stop)).select_columns(list(dict.fromkeys(wanted.values()))).with_format("arrow")
    for table in chosen.iter(batch_rows(len(dataset.data), dataset.data.nbytes)):
        yield from table_rows(table, config, columns, key, partial(_place, name, at), labels)
        at += table.num_rows


def dataset_places(name: str, part: Part) -> Iterator[Callable[[], str]]:
    """Yield functions that return the places of the rows of a part of a dataset, and of those after it."""
    return (partial(_place, name, number) for number in count(part.start))


def _wants_number(column: str) -> bool:
    return isinstance(column, Column) and column.wants == "number"


def _class_names(feature: object) -> Sequence[str] | None:
    """Return the class names of a ClassLabel of `datasets`, or of a list of them; None for any other feature."""
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    return getattr(inner, "names", None)


def _place(name: str, first: int, number: int = 0) -> str:
    return f"{name} row {first + number}"
