"""Rows of a source under the canonical column names."""

from collections.abc import Callable, Mapping, Sequence

from launcher.config.errors import Problem, UserError
from launcher.config.requested_columns import EVERY, KEPT, KeptColumn
from launcher.data import BadRow, Row, _columns
from launcher.data import SourceConfig as SourceConfig


class FilesConfig(SourceConfig):
    """Keys of every source that reads files."""

    path: str | list[str]
    """File or glob, or a list of them. An existing path is not expanded as a glob."""

    @property
    def reads_local_files(self) -> bool:
        return True


def source_columns(config: SourceConfig, columns: Sequence[str]) -> dict[str, str]:
    """Map each requested column to its name in the source.

    A column that combines several source columns has the keys `column[0]`, `column[1]` and so on. A column that the
    configuration does not name is left out.
    """
    names = dict[str, str]()
    for column in columns:
        name = _source_name(config, column)
        if isinstance(name, list):
            names |= {f"{column}[{number}]": one for number, one in enumerate(name)}
        elif name is not None:
            names[column if isinstance(column, KeptColumn) else str(column)] = name
    return names


def _source_name(config: SourceConfig, column: str) -> str | list[str] | None:
    if isinstance(column, KeptColumn):
        return column.name
    name: str | list[str] | None = getattr(config, column)
    return name


def _column_key(key: str, column: str) -> str:
    return "--keep" if isinstance(column, KeptColumn) else f"{key}.{column}"


def check_columns(config: SourceConfig, columns: Sequence[str], present: Sequence[str], table: str, key: str) -> None:
    """Raise UserError if a table lacks a requested column.

    `present`: its columns; `table`: its name for the message.
    """
    missing = [(column, name) for column, name in source_columns(config, columns).items() if name not in present]
    if missing:
        known = ", ".join(present)
        problems = {column: f"{table}: no column {name!r} (there are: {known})" for column, name in missing}
        raise UserError([Problem(_column_key(key, column), problem) for column, problem in problems.items()])


def canonical_row(
    row: Mapping[str, object], config: SourceConfig, columns: Sequence[str], where: Callable[[], str], key: str
) -> Row | BadRow:
    """Rename and check the requested columns of a row. Returns a BadRow for a mistake.

    `where`: returns the place of the row; it is called for a bad row only.
    """
    picked: Row = {}
    kept: Row = {}
    for column in columns:
        name = _source_name(config, column)
        if name is None:
            continue
        if column == EVERY:
            kept |= row
            continue
        if missing := [one for one in ([name] if isinstance(name, str) else name) if one not in row]:
            what = f"no column {missing[0]!r} (there are: {', '.join(map(str, row))})"
            return BadRow(where(), f"{_column_key(key, column)}: {what}", column)
        if isinstance(column, KeptColumn):
            kept[column.name] = row[column.name]
            continue
        cell = [row[one] for one in name] if isinstance(name, list) else row[name]
        try:
            picked[str(column)] = _columns.checked_value(column, name, cell)
        except ValueError as error:
            return BadRow(where(), f"{key}.{column}: {error}")
    if kept:
        picked[KEPT] = kept
    mistake = _columns.inconsistency(picked)
    return BadRow(where(), f"{key}: {mistake}") if mistake else picked


def check_fixed_columns(config: SourceConfig, columns: Sequence[str], fixed: Sequence[str], key: str) -> None:
    """Raise UserError if a kind with the column names `fixed` lacks a requested column.

    Keys such as `image: photo` have no effect on such a kind.
    """
    canonical = [column for column in columns if not isinstance(column, KeptColumn)]
    missing = [column for column in canonical if column not in fixed and _source_name(config, column) is not None]
    if missing:
        what = f"{config.kind} has no {' and no '.join(missing)} (it gives {' and '.join(fixed)})"
        raise UserError(Problem(f"{key}.kind", what))


def fixed_row(row: Mapping[str, object], columns: Sequence[str], where: str) -> Row | BadRow:
    """Pick and check the requested columns of a row with canonical names. Returns a BadRow for a mistake."""
    try:
        return {
            str(column): _columns.checked_value(column, str(column), row[column]) for column in columns if column in row
        }
    except ValueError as error:
        return BadRow(where, str(error))
