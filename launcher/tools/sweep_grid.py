"""A sweep: a grid file lists values of recipe keys, and each point of the grid is a separate run."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TypeVar

from launcher.config import document
from launcher.config.document import Key, Override
from launcher.config.errors import Problem, UserError

P = TypeVar("P")
T = TypeVar("T")
MAX_POINTS = 500
"""Maximum number of points. All points are planned before any is submitted."""
_RESERVED_KEYS = ("name", "seeds")


def read(file: Path, name: str) -> list[list[str]]:
    """Return the overrides of each point. They include the name of its run: `name` with -0, -1, ...

    A map of keys to lists of values stands for their product, in which the last key changes fastest. A list of maps is
    a list of points. Raises UserError with every mistake in the file.
    """
    value, origins = document.plain(file)
    problems = list(_mistakes(value, origins))
    if problems:
        raise UserError(problems)
    count = math.prod(map(len, value.values())) if isinstance(value, dict) else len(value)
    if count > MAX_POINTS:
        raise UserError(f"{file}: {count} points ({MAX_POINTS} at the most)")
    points = _product_points(value, origins) if isinstance(value, dict) else _point_list(value, origins)
    return [[*point, Override(f"name={name}-{i}", f"{file}")] for i, point in enumerate(points)]


def map_points(points: Sequence[P], function: Callable[[P], T]) -> list[T]:
    """Return the result of a function for each point. Raises UserError with the mistakes of all points, without
    repetitions."""
    results, problems = list[T](), dict[str | Problem, None]()
    for point in points:
        try:
            results.append(function(point))
        except UserError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise UserError(list(problems))
    return results


def _product_points(value: dict[str, list[object]], origins: dict[Key, str]) -> list[list[str]]:
    sides = [[override(key, item, origins[key, i]) for i, item in enumerate(items)] for key, items in value.items()]
    return [list(point) for point in product(*sides)]


def _point_list(value: list[dict[str, object]], origins: dict[Key, str]) -> list[list[str]]:
    return [[override(key, item, origins[i, key]) for key, item in point.items()] for i, point in enumerate(value)]


def override(key: str, value: object, origin: str) -> str:
    """Return `key=value` with the value as JSON, which is YAML. `origin`: text with which a message about it begins."""
    return Override(f"{key}={json.dumps(value, ensure_ascii=False)}", origin)


def _mistakes(value: object, origins: dict[Key, str]) -> Iterator[str]:
    """Yield the mistakes in a grid."""
    if isinstance(value, dict):
        keys = [(key, origins[key,]) for key in value]
        for key, items in value.items():
            if not isinstance(items, list) or not items:
                yield f"{origins[key,]}: {key}: should be a list of the values that it takes"
    elif isinstance(value, list):
        maps = [(i, point) for i, point in enumerate(value) if isinstance(point, dict)]
        keys = [(key, origins[i, key]) for i, point in maps for key in point]
        for i, point in enumerate(value):
            if not isinstance(point, dict) or not point:
                yield f"{origins[i,]}: should be a map of keys and values"
    if not isinstance(value, dict | list) or not value:
        yield f"{origins[()]}: should be a map of keys to lists of values, or a list of maps"
        return
    for key, where in keys:
        if key.split(".")[0] == "cluster":
            yield f"{where}: {key}: all points are one job, of one cluster"
        elif key in _RESERVED_KEYS:
            yield f"{where}: {key}: each point is a run with a name of its own (seed: [1, 2, 3] for several seeds)"
