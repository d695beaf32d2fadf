"""A comparison as a table for a terminal, and as an object of JSON."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.pairs import Comparison


def show(comparison: Comparison, console: Console) -> None:
    """Print a comparison: for each side the median, its spread, and the ratio of the launcher's value to its own."""
    pairs = len(comparison.values(comparison.ours))
    better = "higher" if comparison.higher_is_better else "lower"
    console.print(f"[bold]{escape(comparison.title)}[/], medians of {pairs}, {better} is better", highlight=False)
    columns = list(dict.fromkeys(name for side in comparison.measurements for name in comparison.figures(side)))
    with_losses = any(comparison.loss_difference(peer) is not None for peer in comparison.peers)
    table = Table(box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    for name in (comparison.unit, "spread", "ratio", *columns, *(["losses within"] if with_losses else [])):
        table.add_column(escape(name), justify="right")
    for side in comparison.measurements:
        own, peer = comparison.figures(side), side in comparison.peers
        difference = comparison.loss_difference(side) if peer else None
        table.add_row(
            escape(side),
            number(comparison.median(side)),
            f"±{comparison.spread(side):.0%}",
            f"{comparison.ratio(side):.2f}" if peer else "",
            *(number(own[name]) if name in own else "" for name in columns),
            *([] if not with_losses else ["" if difference is None else f"{difference:.1e}"]),
        )
    console.print(table)
    for note in comparison.notes:
        console.print(escape(note), highlight=False, soft_wrap=True)


def number(value: float) -> str:
    """Return a number with three significant digits, or a whole one with separators."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def summary(comparison: Comparison) -> dict[str, object]:
    """Return the figures of a comparison for JSON."""
    sides = list(comparison.measurements)
    return {
        "title": comparison.title,
        "unit": comparison.unit,
        "higher_is_better": comparison.higher_is_better,
        "medians": {side: comparison.median(side) for side in sides},
        "spreads": {side: comparison.spread(side) for side in sides},
        "values": {side: comparison.values(side) for side in sides},
        "ratios": {peer: comparison.ratio(peer) for peer in comparison.peers},
        "figures": {side: comparison.figures(side) for side in sides},
        "loss_differences": {peer: comparison.loss_difference(peer) for peer in comparison.peers},
        "notes": list(comparison.notes),
    }
