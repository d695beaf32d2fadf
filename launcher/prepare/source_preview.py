"""The first rows of each source, read for a plan: mistakes in the data that need no preparation to be seen."""

import time
from itertools import islice

from launcher.config import plugins
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import Recipe
from launcher.data import BadRow
from launcher.prepare import source_shards
from launcher.prepare.source_shards import LeafSource

_ROWS, _SECONDS = 100, 0.5
"""What is read of a source, at the most."""


def problems(recipe: Recipe) -> list[str | Problem]:
    """What is wrong with the first rows of each source of local files: a column that is not there, a value of the wrong
    type, another encoding. Of each source the first mistake."""
    columns, found = source_shards.columns_of(recipe.inner_task), list[str | Problem]()
    for leaf in source_shards.leaves(recipe.data):
        if not hasattr(leaf.config, "path"):  # of the hub: nothing is downloaded for a plan
            continue
        try:
            found += _of(leaf, columns)
        except UserError as error:
            found += error.problems
    return found


def _of(leaf: LeafSource, columns: tuple[str, ...]) -> list[str | Problem]:
    source, end = plugins.source(leaf.config), time.monotonic() + _SECONDS
    parts = source_shards.parts_of(leaf.config, leaf.key)
    rows = (row for part in parts for row in source.rows(columns, leaf.key, part))
    for row in islice(rows, min(_ROWS, leaf.config.limit or _ROWS)):
        if isinstance(row, BadRow) and leaf.config.on_bad_row == "fail":
            return [source_shards.refused(row, leaf)]
        if time.monotonic() > end:
            break
    return []
