"""Arrow tables, read a batch of the needed columns at a time: what parquet, arrow and hub share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from launcher.config.columns import resolved
from launcher.data import BadRow, Part, Row, _source
from launcher.data._source import SourceConfig, check_columns, columns_of, pick

_BATCH_ROWS, _BATCH_BYTES = 1024, 8 * 2**20


def batch_rows(rows: int, size: int) -> int:
    """How many rows to hold at once, of a table of so many rows and bytes."""
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * rows // max(size, 1)))


def rows_of(
    table: Any,
    config: SourceConfig,
    columns: Sequence[str],
    key: str,
    where: Callable[[int], str],
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Row | BadRow]:
    """The rows of a pyarrow table or record batch. `where(n)`: the place of the n-th of them. `labels`: of columns the
    names that stand behind numbers in them."""
    names = list(dict.fromkeys(columns_of(config, columns).values()))
    for number, values in enumerate(zip(*(_values(table.column(name)) for name in names), strict=True)):
        row = pick(dict(zip(names, values, strict=True)), config, columns, partial(where, number), key)
        yield _named(row, labels, partial(where, number), key) if labels else row


def _values(column: Any) -> list[Any]:
    """What a column holds; bytes where a text is not UTF-8, which arrow does not look at."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes()


def _named(row: Row | BadRow, labels: Mapping[str, Sequence[str]], where: Callable[[], str], key: str) -> Row | BadRow:
    if isinstance(row, BadRow):
        return row
    named = dict(row)
    for column, names in labels.items():
        try:
            named[column] = _names(row[column], names)
        except LookupError as error:  # the hub marks by -1 what nobody labelled
            return BadRow(where(), f"{key}.{column}: has no label ({error}): choose another split")
    return named


def _names(value: Any, names: Sequence[str]) -> Any:
    """The names behind a number or a list of them, which may be read as digits. Raises LookupError."""
    if value is None:  # a word that is excluded by -100
        return None
    if isinstance(value, list):
        return [_names(one, names) for one in value]
    if not 0 <= int(value) < len(names):
        raise LookupError(value)
    return names[int(value)]


def dataset_parts(data: Any) -> list[Part]:
    """Ranges of the rows of a `datasets.Dataset`."""
    total = len(data)
    each = max(data.data.nbytes // max(len(data.data), 1), 1)  # bytes of a row, about
    step = max(_source.PART // each, 1)
    cuts = [(at, min(at + step, total)) for at in range(0, max(total, 1), step)]
    return [Part((), start, stop, (stop - start) * each) for start, stop in cuts]


def dataset_rows(
    data: Any, what: str, config: SourceConfig, columns: Sequence[str], key: str, part: Part
) -> Iterator[Row | BadRow]:
    """The rows of a range of a `datasets.Dataset`. `what`: its name, for messages. Raises UserError for a column that
    it does not have."""
    columns = resolved(columns, data.column_names)
    check_columns(config, columns, data.column_names, what, key)
    wanted = columns_of(config, columns)
    asked = [c for c in columns if c in ("label", "labels") and getattr(c, "wants", "") != "number"]
    named = {str(column): _label_names(data.features[wanted[column]]) for column in asked}
    labels = {column: names for column, names in named.items() if names}
    stop = len(data) if part.stop is None else min(part.stop, len(data))
    at = part.start
    chosen = data.select(range(at, stop)).select_columns(list(dict.fromkeys(wanted.values()))).with_format("arrow")
    for table in chosen.iter(batch_rows(len(data.data), data.data.nbytes)):
        yield from rows_of(table, config, columns, key, partial(_where, what, at), labels)
        at += table.num_rows


def _label_names(feature: Any) -> Sequence[str] | None:
    """The names of a ClassLabel, or of those in a list."""
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    return getattr(inner, "names", None)


def _where(what: str, first: int, number: int) -> str:
    return f"{what} row {first + number}"
