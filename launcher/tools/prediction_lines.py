"""Answers of a model for a file: which columns of a row stand beside them, and CSV in the place of JSON lines."""

import csv
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.config.columns import EVERY, KEPT, KeptColumn
from launcher.config.errors import UserError
from launcher.config.types import hint
from launcher.data import Row

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""The endings of files that are written as tables."""
UNWRITTEN = (".parquet", ".arrow", ".gz", ".zst", ".xlsx")
"""Endings that promise a file which is not made here."""

RESERVED = ("error", "truncated")
"""Names that stand in the lines of some rows alone."""


def kept_columns(keep: str | None) -> tuple[KeptColumn, ...]:
    """The columns of `--keep`: names with commas between them, or all. Raises UserError."""
    if keep is None:
        return ()
    if keep.strip() == "all":
        return (EVERY,)
    names = [name.strip() for name in keep.split(",")]
    if not all(names):
        raise UserError(f"--keep {keep}: names of columns with commas between them, such as id,text, or all")
    return tuple(map(KeptColumn, dict.fromkeys(names)))


def given(row: Row, keep: Sequence[KeptColumn]) -> dict[str, Any]:
    """What stands in a row's line of the row: the kept columns, or without any what the model was given. Images are
    left out, for their file. Raises UserError for a kept column that the row does not have."""
    if not keep:
        return {name: value for name, value in row.items() if name not in ("image", KEPT)}
    there = row.get(KEPT, row)  # a source without columns of its own has the canonical ones alone
    names = [name for name in there if name not in ("image", KEPT)] if EVERY in keep else [one.name for one in keep]
    if missing := [name for name in names if name not in there]:
        raise UserError(f"--keep {missing[0]}: no such column ({hint(missing[0], there)})")
    return {name: there[name] for name in names if not _holds_bytes(there[name])}


def joined(given: Mapping[str, Any], answer: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A line: what was given, then the answer. A given column of an answer's name, such as label or, of its parts,
    probabilities.few, is called given_NAME (given_given_NAME where there is such a column). `names`: those of any
    answer, so that a column has one name in all lines."""

    def clashes(name: str) -> bool:
        return name in names or name.partition(".")[0] in names

    def renamed(name: str) -> str:
        new = name
        while clashes(new) or (new != name and new in given):
            new = f"given_{new}"
        return new

    return {renamed(name): value for name, value in given.items()} | dict(answer)


def _holds_bytes(value: Any) -> bool:
    """Whether a value is, or has in it, a file's content, as images of parquet files have."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, bytes) or any(map(_holds_bytes, inner))


def as_json(line: Mapping[str, Any]) -> str:
    """A line as JSON; a number that is not finite as null, and another value that JSON does not have, such as a date,
    as its text."""
    return json.dumps(_finite(line), ensure_ascii=False, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_table(lines: Path, table: Path, delimiter: str) -> None:
    """Make a table of JSON lines, with a column for every key that any of them has: maps are spread over columns such
    as probabilities.few, lists stand as JSON."""
    names = dict[str, None]()
    for row in _flat_rows(lines):
        names |= dict.fromkeys(row)
    with table.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, names, delimiter=delimiter, lineterminator="\n")
        quoted = csv.DictWriter(file, names, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
        out.writeheader()
        for row in _flat_rows(lines):
            returns = any("\r" in value for value in row.values() if isinstance(value, str))  # which csv leaves bare
            (quoted if returns else out).writerow(row)


def _flat_rows(lines: Path) -> Iterator[dict[str, Any]]:
    with lines.open(encoding="utf-8") as file:
        for line in file:
            yield dict(_flat(json.loads(line), ""))


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and (value or not path):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list | dict | bool):
        yield path, json.dumps(value, ensure_ascii=False)
    else:
        yield path, value
