"""The confusion matrix of a classifier, as a table, a list of the most frequent confusions, or a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from launcher.config.atomic_files import write_aside
from launcher.tasks import _metrics

_PAIRS = 10
"""Number of confusions to print if the matrix does not fit."""
_MAX_CLASSES = 40
"""Maximum number of classes of a matrix to print."""


def show(counts: Sequence[Sequence[int]], labels: Sequence[str], console: Console) -> None:
    """Print the matrix, or the most frequent confusions if it is too wide. `counts`: a row for each true class."""
    numbers = [str(number) for number in range(1, len(labels) + 1)]
    numbered = [f"{number} {label}" for number, label in zip(numbers, labels, strict=True)]
    for rows, columns in ((labels, labels), (numbered, numbers)) if len(labels) < _MAX_CLASSES else ():
        table = _table(counts, rows, columns)
        if Measurement.get(console, console.options.update_width(10_000), table).maximum <= console.width:
            console.print(table)
            console.print("confusion: rows are the truth, columns what was predicted", highlight=False)
            return
    pairs = _metrics.confusions(counts)
    table = Table(box=None, pad_edge=False)
    table.add_column("truth", overflow="fold")
    table.add_column("taken for", overflow="fold")
    table.add_column("times", justify="right", no_wrap=True)
    table.add_column("of its samples", justify="right", no_wrap=True)
    for truth, predicted in pairs[:_PAIRS]:
        times, support = counts[truth][predicted], sum(counts[truth])
        table.add_row(escape(labels[truth]), escape(labels[predicted]), f"{times:.0f}", f"{times / support:.1%}")
    console.print(table)
    console.print(f"the most frequent of {len(pairs)} confusions of {len(labels)} classes", highlight=False)


def draw(counts: Sequence[Sequence[int]], labels: Sequence[str], title: str, file: Path) -> None:
    """Draw the matrix as PNG. Colours are fractions of a row; numbers of samples are added if there is room for
    them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = np.asarray(counts, dtype=float)
    shares = values / np.maximum(values.sum(1, keepdims=True), 1)
    names = [label if len(label) <= 24 else f"{label[:23]}…" for label in labels]
    size = min(max(4.0, 1.6 + 0.42 * len(labels)), 23.0)
    some = slice(None, None, 1 + len(labels) // 60)
    figure = Figure(figsize=(size + 0.09 * max(map(len, names)), size), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names))[some], names[some], rotation=90 if len(names) > 4 else 0, parse_math=False)
    axes.set_yticks(range(len(names))[some], names[some], parse_math=False)
    axes.set(xlabel="predicted", ylabel="truth")
    axes.set_title(title, parse_math=False)
    for (row, column), value in np.ndenumerate(values):
        if value and len(labels) < 60:
            dark = shares[row, column] > 0.5
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color="w" if dark else "k")
    figure.colorbar(image, ax=axes, label="share of the truth", shrink=0.7)
    with write_aside(file) as aside:
        figure.savefig(aside, format="png")


def _table(counts: Sequence[Sequence[int]], rows: Sequence[str], columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("truth", no_wrap=True)
    for label in columns:
        table.add_column(escape(label), justify="right", no_wrap=True)
    for number, (label, row) in enumerate(zip(rows, counts, strict=True)):
        cells = [f"[bold]{n:.0f}[/]" if number == column else f"{n:.0f}" if n else "·" for column, n in enumerate(row)]
        table.add_row(escape(label), *cells)
    return table
