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

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3
_DECADES = 20.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""
_BEST, _OTHER, _PRUNED = "#d1495b", "#30638e", "#9aa5b1"


def draw(record: Record, found: Sequence[TrialResult], file: Path) -> bool:
    """Draw one diagram a key as PNG: each trial's mean and deviation, pruned trials at their last value. Returns False
    if no trial has a value."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [result for result in found if result.mean is not None]
    if not shown:
        return False
    keys = list(dict.fromkeys(key for result in shown for key in result.params))
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
        _draw_key(axes, keys[place], shown, best)
        if place % columns == 0:
            axes.set_ylabel(record.metric, parse_math=False)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    better = "smaller" if record.direction == "min" else "larger"
    title = f"{record.name}: {len(shown)} of {len(found)} trials have a value ({better} is better)"
    figure.suptitle(title, fontsize=11, parse_math=False)
    with write_aside(file) as aside:
        figure.savefig(aside, format="png")
    return True


def _draw_key(axes: "Axes", key: str, shown: Sequence[TrialResult], best: TrialResult | None) -> None:
    """Draw the trials over the values of one key, in three series that the legend names."""
    values = [result.params[key] for result in shown]
    positions, ticks = _positions(values)
    groups = {
        "trial": [n for n, one in enumerate(shown) if one.complete and one is not best],
        "pruned or failed": [n for n, one in enumerate(shown) if not one.complete],
        "best": [n for n, one in enumerate(shown) if one is best],
    }
    colours = {"trial": (_OTHER, "o", 6), "pruned or failed": (_PRUNED, "x", 6), "best": (_BEST, "*", 13)}
    for name, members in groups.items():
        colour, marker, size = colours[name]
        axes.errorbar(
            [positions[n] for n in members],
            [shown[n].mean or 0.0 for n in members],
            yerr=[shown[n].deviation or 0.0 for n in members],
            label=name, fmt=marker, color=colour, markersize=size, capsize=3, elinewidth=1, linestyle="none",
        )  # fmt: skip
    if ticks:
        axes.set_xticks(range(len(ticks)), ticks, parse_math=False, rotation=30 if max(map(len, ticks)) > 8 else 0)
        axes.set_xlim(-0.5, len(ticks) - 0.5)
    elif min(positions) > 0 and max(positions) / min(positions) >= _DECADES:
        axes.set_xscale("log")
    axes.set_xlabel(key, parse_math=False)
    axes.grid(alpha=0.25)


def _positions(values: Sequence[Value]) -> tuple[list[float], list[str]]:
    """Return the place of each value on the axis, and the names of the places; no names: the axis has numbers."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return [float(value) for value in values], []
    names = [next(space.labels({"": value})) for value in values]
    ticks = list(dict.fromkeys(names))
    return [float(ticks.index(name)) for name in names], ticks
