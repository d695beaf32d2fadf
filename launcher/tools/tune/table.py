"""The table of a search: each setting with its speed, fill and memory, the fastest first."""

import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config.types import JsonObject
from launcher.distributed import output_streams
from launcher.tuning.results import Result, Results
from launcher.tuning.search import Space


def show(space: Space, results: Results, console: Console) -> None:
    """Print the table."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("setting", overflow="fold")
    for name in ("tokens/s", "ratio", "fill", "MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("losses", overflow="fold")
    best = results.best()
    for result in _ordered(results):
        label = escape(result.setting.label(space.written))
        table.add_row(f"[bold]{label}[/]" if result is best else label, *_cells(results, result))
    console.print(table)
    console.print(
        "ratio: to the recipe as written, the median over the same steps; fill: share of the computed positions that "
        "are tokens; MiB: the most a rank needed; losses: whether those of each step agree with the recipe as written",
        highlight=False,
    )


def as_json(space: Space, results: Results, file: Path | None, changes: JsonObject) -> str:
    """Return the table as JSON. `file`: the tuned file; None: there is none. `changes`: its keys."""
    best = results.best()
    rows = [{**_row(space, results, result), "best": result is best} for result in _ordered(results)]
    return output_streams.as_json(json.dumps({"settings": rows, "set": changes, "file": file and str(file)}, indent=1))


def _ordered(results: Results) -> list[Result]:
    ranked = results.ranked()
    return [*ranked, *(result for result in results if result not in ranked)]


def _cells(results: Results, result: Result) -> list[str]:
    if not result.seconds:
        return ["", "", "", "", f"[red]{escape(result.wrong)}[/]"]
    verdict = f"[red]{escape(result.wrong)}[/]" if result.wrong else "agree"
    speed = [f"{results.tokens_per_second(result):,.0f}", f"{results.ratio(result):.2f}"]
    return [*(["", ""] if result.wrong else speed), f"{result.last.fill:.2f}", f"{result.memory / 2**20:,.0f}", verdict]


def _row(space: Space, results: Results, result: Result) -> JsonObject:
    steps = sorted(result.seconds)
    return {
        "setting": result.setting.label(space.written),
        "changes": result.setting.changes(space.written),
        "tokens_per_second": round(results.tokens_per_second(result), 1),
        "ratio": round(results.ratio(result), 4),
        "fill": round(result.last.fill, 4),
        "memory": result.memory,
        "losses": [result.losses[step] for step in steps],
        "data": [result.data[step] for step in steps],
        "wrong": result.wrong,
    }
