"""The numbers of a run by step: its metrics.jsonl as columns, and columns thinned for a figure.

A million steps are read in seconds. A line that is not a record is left out and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from launcher.config import strict_json
from launcher.storage.run_dir import RunDir

Array = NDArray[np.float64]
_CHUNK = 20_000
"""Number of records to turn into columns at once."""
_MOST = 10_000
"""Maximum number of values of a record."""
_HINT = "take it out, or move the file away"


@dataclass(frozen=True)
class Series:
    """Records of one kind in the order of their steps. `columns`: a value for each step, by name; nan: there is
    none."""

    steps: Array
    columns: dict[str, Array]

    def column(self, name: str) -> Array:
        """Return a column; without any value if the records do not have it."""
        return self.columns[name] if name in self.columns else np.full(len(self.steps), np.nan)

    def has(self, name: str) -> bool:
        """Return whether any record has a finite value with this name."""
        return bool(np.isfinite(self.column(name)).any())

    def at(self, steps: Array, name: str) -> Array:
        """Return the values of an increasing column at other steps, interpolated; 0 at step 0."""
        known = np.isfinite(self.column(name))
        points, values = self.steps[known], self.column(name)[known]
        if not len(points):
            return np.full(len(steps), np.nan)
        found: Array = np.interp(steps, np.append(0.0, points), np.append(0.0, values))
        return found


@dataclass(frozen=True)
class Metrics:
    """The metrics of a run. `damaged`: number of lines that are no records."""

    training: Series
    evaluation: Series
    damaged: int = 0


@dataclass
class _Columns:
    """Columns that records are added to. Records with the same names in the same order share a group."""

    chunks: list[tuple[dict[str, Array], int]] = field(default_factory=list)
    waiting: dict[tuple[str, ...], list[tuple[object, ...]]] = field(default_factory=dict)

    def add(self, names: tuple[str, ...], values: tuple[object, ...]) -> None:
        rows = self.waiting.setdefault(names, [])
        rows.append(values)
        if len(rows) == _CHUNK:
            self._flush(names)

    def series(self) -> Series:
        """Return the records that count: those after which no record of the same or an earlier step was written."""
        for waiting in [*self.waiting]:
            self._flush(waiting)
        names = list(dict.fromkeys(name for chunk, _ in self.chunks for name in chunk))
        joined = {
            name: np.concatenate([chunk.get(name, np.full(size, np.nan)) for chunk, size in self.chunks])
            for name in names
        }
        if not joined:
            return Series(np.empty(0), {})
        order = np.argsort(joined.pop(""), kind="stable")
        steps = joined.pop("step")[order]
        later = np.append(np.minimum.accumulate(steps[::-1])[::-1][1:], np.inf)
        kept = steps < later
        return Series(steps[kept], {name: column[order][kept] for name, column in joined.items()})

    def _flush(self, names: tuple[str, ...]) -> None:
        rows = self.waiting.pop(names)
        self.chunks.append(
            ({name: _numbers(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}, len(rows))
        )


def read(folder: RunDir) -> Metrics:
    """Return the metrics of a run; empty if there are none. Raises DamagedFile for what is no file of lines."""
    kinds, damaged = (_Columns(), _Columns()), 0
    lines = strict_json.lines(folder.metrics, _HINT) if strict_json.exists(folder.metrics) else ()
    for number, (_, line) in enumerate(lines):
        try:
            record = from_json(line)
            step = record["step"]
        except (ValueError, KeyError, TypeError, IndexError):
            damaged += line.endswith(b"\n")
            continue
        if type(step) is not int or not 0 <= step < 1 << 53 or len(record) > _MOST:
            damaged += 1
            continue
        record[""] = number
        kinds["loss" not in record].add(tuple(record), tuple(record.values()))
    return Metrics(kinds[0].series(), kinds[1].series(), damaged)


def _numbers(values: Sequence[object]) -> Array:
    """Return values as floats; nan for what is no number."""
    try:
        return np.array(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return np.array([_number(value) for value in values])


def _number(value: object) -> float:
    return float(value) if isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 62) else np.nan


@dataclass(frozen=True)
class Thinned:
    """Points of a line. `low`, `high`: the extremes of the points that each one stands for."""

    x: Array
    mean: Array
    low: Array
    high: Array

    @property
    def exact(self) -> bool:
        """Whether each point stands for itself."""
        return self.low is self.high


def thin(x: Array, y: Array, most: int) -> Thinned:
    """Return at most `most` points for a line with more than twice as many, else all its points. Values that are not
    finite are left out."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) <= 2 * most:
        return Thinned(x, y, y, y)
    begins = np.linspace(0, len(x), most + 1).astype(np.int64)[:-1]
    sizes = np.diff(np.append(begins, len(x)))
    mean, centre = np.add.reduceat(y, begins) / sizes, np.add.reduceat(x, begins) / sizes
    return Thinned(centre, mean, np.minimum.reduceat(y, begins), np.maximum.reduceat(y, begins))
