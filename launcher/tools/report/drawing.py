"""Figures of a report, drawn by matplotlib."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np

from launcher.config.strict_json import shown
from launcher.tools.report import palette
from launcher.tools.report.series import Array, Thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

_SIZE = (5.0, 3.1)
"""Width and height of a figure in inches: at the width of a phone, its texts have about the size of the page's."""
_DASHES: tuple[object, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (6, 2, 1.2, 2)), (0, (9, 2)))
_MARKERS = ("", "o", "s", "^", "D")
MOST_LINES = len(_DASHES) * len(_MARKERS)
"""Number of lines that differ in colour, dashes or markers; the first five differ without their colours."""
_LOGARITHMIC = 50
"""Ratio of the largest to the smallest value from which on an axis is logarithmic."""
_NAME, _SHORT = 40, 20
"""Maximum characters of a name in a legend, and of names in two columns."""
_TITLE = 60
"""Maximum characters of a title."""
_SETTINGS: "dict[RcKeyType, object]" = {
    "svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 10.5, "font.family": ["DejaVu Sans"],
    "axes.unicode_minus": False, "text.parse_math": False, "axes.formatter.use_mathtext": False,
    "path.simplify_threshold": 0.2, "axes.spines.top": False, "axes.spines.right": False,
    "text.color": palette.light("ink"), "axes.labelcolor": palette.light("muted"),
    "xtick.labelcolor": palette.light("muted"), "ytick.labelcolor": palette.light("muted"),
    "xtick.color": palette.light("grid"), "ytick.color": palette.light("grid"),
    "axes.edgecolor": palette.light("grid"), "grid.color": palette.light("grid"),
    "axes.axisbelow": True, "axes.titleweight": "bold", "axes.titlesize": 11, "axes.titlelocation": "left",
    "legend.frameon": False, "legend.fontsize": 10, "legend.handlelength": 2.6, "figure.dpi": 72, "savefig.dpi": 180,
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """Appearance of a line. `dashes`: as matplotlib takes them."""

    colour: str
    dashes: object = "-"
    marker: str = ""


def style(number: int) -> Style:
    """Return the style of the line with this number, from 0 to MOST_LINES - 1."""
    count = len(_DASHES)
    turn, colour = divmod(number, count)
    return Style(palette.SERIES[colour], _DASHES[(colour + turn) % count], _MARKERS[turn % len(_MARKERS)])


@dataclass(frozen=True)
class Line:
    """A line. `label`: its name in the legend; empty: none. `dotted`: whether each point has a marker."""

    points: Thinned
    style: Style
    label: str = ""
    dotted: bool = False


@dataclass(frozen=True)
class Panel:
    """A figure with lines. `unit`: label of the y axis; `axis`: of the x axis. `level`, `level_name`: a value to
    compare with. `marks`: places on the x axis to mark, of `mark_name`. `bounds`: of the y axis."""

    name: str
    title: str
    unit: str
    axis: str
    lines: Sequence[Line]
    level: float | None = None
    level_name: str = ""
    marks: Sequence[float] = ()
    mark_name: str = ""
    bounds: tuple[float, float] | None = None

    @property
    def logarithmic(self) -> bool:
        """Whether the values are positive and of very different sizes."""
        low = min((float(line.points.low.min()) for line in self.lines if len(line.points.low)), default=0.0)
        high = max((float(line.points.high.max()) for line in self.lines if len(line.points.high)), default=0.0)
        return self.bounds is None and low > 0 and high / low >= _LOGARITHMIC

    @property
    def description(self) -> str:
        """The figure in words."""
        parts = [_in_words(line) for line in self.lines if len(line.points.x)]
        scale = ", logarithmic" if self.logarithmic else ""
        return f"{self.title}: {self.unit}{scale}, over {self.axis}. {'; '.join(parts)}."


def _in_words(line: Line) -> str:
    points = line.points
    first, last = float(points.mean[0]), float(points.mean[-1])
    low, high = float(points.low.min()), float(points.high.max())
    name = f"{shown(line.label, _NAME)}: " if line.label else ""
    return f"{name}from {first:.4g} to {last:.4g}, lowest {low:.4g}, highest {high:.4g}"


@contextmanager
def settings(grid: bool = True) -> Iterator[None]:
    """Draw with the settings of reports inside of the context. `grid`: whether axes have one."""
    import matplotlib

    more: dict[RcKeyType, object] = {"axes.grid": grid}
    with matplotlib.rc_context({**_SETTINGS, **more}):
        yield


@dataclass(frozen=True)
class Drawing:
    """A drawn figure. `description`: its content in words."""

    name: str
    description: str
    figure: "Figure"

    def save(self, file: BinaryIO | Path, format: Literal["svg", "png"]) -> None:
        """Write the figure. A character that the font of a PNG does not have becomes a box, without a warning."""
        ground = "none" if format == "svg" else palette.light("card")
        metadata = {"Date": None} if format == "svg" else {}
        with settings(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
            self.figure.savefig(file, format=format, facecolor=ground, edgecolor="none", metadata=metadata)
        self.figure.set_layout_engine("none")  # later formats keep this layout, which takes longest


def draw(panel: Panel) -> Drawing:
    """Draw a figure with lines."""
    from matplotlib.figure import Figure

    with settings():
        labels = [line.label for line in panel.lines if line.label]
        labels += [name for name, there in ((panel.level_name, panel.level), (panel.mark_name, panel.marks)) if there]
        columns = 1 if max(map(len, labels), default=0) > _SHORT else 2
        rows = -(-len(labels) // columns)
        figure = Figure(figsize=(_SIZE[0], _SIZE[1] + 0.21 * rows), layout="constrained")
        axes = figure.add_subplot(facecolor="none")
        for line in panel.lines:
            _draw_line(axes, line)
        if panel.level is not None:
            _draw_level(axes, panel.level, panel.level_name)
        for number, place in enumerate(panel.marks):
            label = "" if number else panel.mark_name
            axes.axvline(place, color=palette.light("wasted"), linewidth=1.1, linestyle=(0, (1, 2)), label=label)
        axes.set(xlabel=panel.axis, ylabel=panel.unit, title=shown(panel.title, _TITLE))
        if panel.bounds:
            axes.set_ylim(*panel.bounds)
        _format(axes, panel.logarithmic)
        if labels:
            figure.legend(loc="outside lower left", ncols=columns)
    return Drawing(panel.name, panel.description, figure)


def _draw_line(axes: "Axes", line: Line) -> None:
    points, colour = line.points, palette.light(line.style.colour)
    marker = line.style.marker or ("o" if line.dotted or len(points.x) == 1 else "")
    every = None if line.dotted or len(points.x) < 16 else max(1, len(points.x) // 8)
    if not points.exact:
        axes.fill_between(points.x, points.low, points.high, color=colour, alpha=0.22, linewidth=0)
    axes.plot(
        points.x, points.mean, color=colour, linestyle=line.style.dashes, linewidth=1.6, marker=marker, markersize=4,
        markevery=every, label=shown(line.label, _NAME) if line.label else "",
    )  # fmt: skip


def _draw_level(axes: "Axes", level: float, name: str) -> None:
    axes.axhline(level, color=palette.light("muted"), linewidth=1.1, linestyle=(0, (3, 3)), label=shown(name, 40))


def _format(axes: "Axes", logarithmic: bool) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if not logarithmic:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(number)
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_major_formatter(number)
    axes.yaxis.set_minor_formatter(NullFormatter())


def number(value: float, place: object = None) -> str:
    """Return a number for an axis."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else ""
    if abs(value) >= 1e4 and abs(value) < 1e12:
        size, unit = next((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(value) >= s)
        return f"{value / size:.4g} {unit}"
    return f"{value:.4g}"


def line_of(x: Array, y: Array, look: Style, label: str = "", most: int = 400, dotted: bool = False) -> Line | None:
    """Return a thinned line; None: it has no point."""
    from launcher.tools.report.series import thin

    points = thin(np.asarray(x), np.asarray(y), most)
    return Line(points, look, label, dotted) if len(points.x) else None
