"""The picture of a sweep: the metric over the values of each key."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.config.atomic_files import write_aside
from launcher.config.document import Value
from launcher.tools.sweep import results, space
from launcher.tools.sweep.record import Record
from launcher.tools.sweep.results import TrialResult
from launcher.tools.sweep.space import Dimension, Range

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3
_FEW = 6
"""Maximum number of different numbers that are the ticks of an axis themselves."""
_DECADES = 20.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""
_SERIES = {"trial": ("#30638e", "o", 6), "not compared": ("#9aa5b1", "x", 6), "best": ("#d1495b", "*", 13)}
"""Colour, marker and its size in points, by the name of a series."""


def draw(record: Record, found: Sequence[TrialResult], file: Path) -> bool:
    """Draw one diagram a key as PNG: each trial's mean and deviation, pruned trials at their last value. Returns False
    if no trial has a value."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [result for result in found if result.mean is not None]
    if not shown:
        return False
    keys = list(dict.fromkeys(key for result in shown for key in result.params))
    dimensions = {one.key: one for one in space.parse(f"--{record.method}", record.space)[0]}
    columns = min(_COLUMNS, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure = Figure(figsize=(0.8 + 4.0 * columns, 0.9 + 3.2 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    best = results.best_of(found, record.direction)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for place, axes in enumerate(grid.flat):
        if place >= len(keys):
            axes.set_visible(False)
            continue
        _draw_key(axes, keys[place], shown, best, dimensions[keys[place]])
        if place % columns == 0:
            axes.set_ylabel(record.metric, parse_math=False)
    if _spans_decades([result.mean or 0.0 for result in shown]):
        grid[0][0].set_yscale("log")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    better = "smaller" if record.direction == "min" else "larger"
    title = f"{record.name}: {len(shown)} of {len(found)} trials have a value ({better} is better)"
    figure.suptitle(title, fontsize=11, parse_math=False)
    with write_aside(file) as aside:
        figure.savefig(aside, format="png")
    return True


def _draw_key(
    axes: "Axes", key: str, shown: Sequence[TrialResult], best: TrialResult | None, dimension: Dimension
) -> None:
    """Draw the trials over the values of one key, in up to three series that the legend names."""
    positions = _scale(axes, [result.params[key] for result in shown], dimension)
    for name, (colour, marker, size) in _SERIES.items():
        members = [n for n, result in enumerate(shown) if _series(result, best) == name]
        if not members:
            continue
        deviations = [shown[n].deviation or 0.0 for n in members]
        axes.errorbar(
            [positions[n] for n in members],
            [shown[n].mean or 0.0 for n in members],
            yerr=deviations if any(deviations) else None,
            label=name, fmt=marker, color=colour, markersize=size, capsize=3, linestyle="none",
        )  # fmt: skip
    axes.set_xlabel(key, parse_math=False)
    axes.grid(alpha=0.25)


def _series(result: TrialResult, best: TrialResult | None) -> str:
    return "best" if result is best else "trial" if result.complete else "not compared"


def _scale(axes: "Axes", values: Sequence[Value], dimension: Dimension) -> list[float]:
    """Set the ticks and the scale of the axis of some values, and return their places on it. A list of few numbers has
    a tick each; what is no number has a place of its own."""
    if isinstance(dimension, Range):
        axes.set_xscale("log" if dimension.log else "linear")
        return [float(value) for value in values]
    names = [next(space.labels({"": value})) for value in values]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        order = list(dict.fromkeys(names))
        axes.set_xticks(range(len(order)), order, parse_math=False, rotation=30 if max(map(len, order)) > 8 else 0)
        axes.set_xlim(-0.5, len(order) - 0.5)
        return [float(order.index(name)) for name in names]
    places = [float(value) for value in values]
    if _spans_decades(places):
        axes.set_xscale("log")
    ticks = dict(sorted(zip(places, names, strict=True)))
    if len(ticks) <= _FEW:
        axes.set_xticks(list(ticks), list(ticks.values()), parse_math=False)
        axes.minorticks_off()
    return places


def _spans_decades(numbers: Sequence[float]) -> bool:
    """Return whether a logarithmic axis shows the numbers better."""
    return min(numbers) > 0 and max(numbers) / min(numbers) >= _DECADES
