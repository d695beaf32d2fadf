"""What sources share whose columns have names of their own: those of `image: photo` and the like say nothing there."""

from collections.abc import Mapping, Sequence
from typing import Any

from launcher.config.columns import KeptColumn
from launcher.config.errors import Problem, UserError
from launcher.data import BadRow, Row, _columns
from launcher.data._source import SourceConfig


def check(config: SourceConfig, columns: Sequence[str], there: Sequence[str], key: str) -> None:
    """Raises UserError for columns that a kind does not give."""
    asked = [column for column in columns if not isinstance(column, KeptColumn)]
    missing = [column for column in asked if column not in there and getattr(config, column) is not None]
    if missing:
        what = f"{config.kind} has no {' and no '.join(missing)} (it gives {' and '.join(there)})"
        raise UserError(Problem(f"{key}.kind", what))


def row(given: Mapping[str, Any], columns: Sequence[str], where: str) -> Row | BadRow:
    """The columns asked for, of those that a kind gives, as they are wanted."""
    try:
        return {
            str(column): _columns.value(column, str(column), given[column]) for column in columns if column in given
        }
    except ValueError as error:
        return BadRow(where, str(error))
