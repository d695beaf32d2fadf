"""Lines of predictions: selection of a row's columns, JSON, and CSV tables."""

import csv
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from launcher.config.base_model import hint
from launcher.config.errors import UserError
from launcher.config.requested_columns import EVERY, KEPT, KeptColumn
from launcher.data import Row

Prediction = dict[str, object]
"""The prediction for a row or a sample, as a JSON object."""

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Delimiter of a table, by file suffix."""
UNSUPPORTED = (".parquet", ".arrow", ".gz", ".zst", ".xlsx")
"""File suffixes of formats that are not supported for output."""
RESERVED = ("error", "truncated")
"""Keys that only some lines have."""


def kept_columns(keep: str | None) -> tuple[KeptColumn, ...]:
    """Return the columns of `--keep`: names separated by commas, or `all`. Raises UserError for an empty name."""
    if keep is None:
        return ()
    if keep.strip() == "all":
        return (EVERY,)
    names = [name.strip() for name in keep.split(",")]
    if not all(names):
        raise UserError(f"--keep {keep}: names of columns with commas between them, such as id,text, or all")
    return tuple(map(KeptColumn, dict.fromkeys(names)))


def selected(row: Row, keep: Sequence[KeptColumn]) -> Row:
    """Return the columns of a row for its line: the `keep` columns or, if empty, the model's inputs. Images are left
    out. Raises UserError for a column that the row lacks."""
    if not keep:
        return {name: value for name, value in row.items() if name not in ("image", KEPT)}
    there = row.get(KEPT, row)  # some sources have only the canonical columns
    names = [name for name in there if name not in ("image", KEPT)] if EVERY in keep else [one.name for one in keep]
    if missing := [name for name in names if name not in there]:
        raise UserError(f"--keep {missing[0]}: no such column ({hint(missing[0], there)})")
    return {name: there[name] for name in names if not _holds_bytes(there[name])}


def joined(columns: Mapping[str, object], prediction: Mapping[str, object], names: Collection[str]) -> Prediction:
    """Return a line: the row's columns, then its prediction.

    A column whose name is a key of predictions (label, or probabilities.few in a table) is renamed given_NAME; the
    prefix is repeated while that name exists too. `names`: keys of any prediction, so that a column has the same name
    in all lines.
    """

    def clashes(name: str) -> bool:
        return name in names or name.partition(".")[0] in names

    def renamed(name: str) -> str:
        new = name
        while clashes(new) or (new != name and new in columns):
            new = f"given_{new}"
        return new

    return {renamed(name): value for name, value in columns.items()} | dict(prediction)


def _holds_bytes(value: object) -> bool:
    """Return whether a value is or contains bytes, as images in parquet files do."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, bytes) or any(map(_holds_bytes, inner))


def as_json(line: Mapping[str, object]) -> str:
    """Return a line as JSON. Numbers that are not finite become null. Values without a JSON type, such as dates, become
    text."""
    return json.dumps(_finite(line), ensure_ascii=False, default=str, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_table(lines: Path, table: Path, delimiter: str) -> None:
    """Write JSON lines as a table with a column for each key of any line. Maps become columns such as
    probabilities.few; lists become JSON text."""
    names = dict[str, None]()
    for row in _flat_rows(lines):
        names |= dict.fromkeys(row)
    with table.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, names, delimiter=delimiter, lineterminator="\n")
        quoted = csv.DictWriter(file, names, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
        out.writeheader()
        for row in _flat_rows(lines):
            returns = any("\r" in value for value in row.values() if isinstance(value, str))  # csv does not quote \r
            (quoted if returns else out).writerow(row)


def _flat_rows(lines: Path) -> Iterator[dict[str, object]]:
    with lines.open(encoding="utf-8") as file:
        for line in file:
            yield dict(_flat(json.loads(line), ""))


def _flat(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Yield the leaves of nested maps with their dotted keys."""
    if isinstance(value, dict) and (value or not path):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list | dict | bool):
        yield path, json.dumps(value, ensure_ascii=False)
    else:
        yield path, value
