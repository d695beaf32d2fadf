"""The table of a sweep: values, metric and state of each trial."""

from collections.abc import Sequence
from contextlib import suppress

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from launcher.config import paths, strict_json
from launcher.config.format import plural, some
from launcher.config.strict_json import DamagedFile, shown
from launcher.storage.run_dir import RunDir
from launcher.tools import recipe_differences
from launcher.tools.sweep import results, space
from launcher.tools.sweep.record import Record
from launcher.tools.sweep.results import TrialResult

_UNBOUNDED = 10_000
"""Width of a console that breaks no line of a table."""
_CELL = 24
"""Maximum characters of a value in the table."""
_ERRORS = 5
"""Maximum number of different errors that are printed."""


def show(record: Record, found: Sequence[TrialResult], console: Console, of_best: bool) -> None:
    """Print the trials, the best first, and the errors of failed ones. `of_best`: whether a value is that of a run's
    best evaluation, else of its last."""
    best = results.best_of(found, record.direction)
    rows = results.ranked(found, record.direction)
    table = _table(record, rows, best, separate=True)
    if Measurement.get(console, console.options.update(max_width=_UNBOUNDED), table).maximum > console.width:
        table = _table(record, rows, best, separate=False)
    seeds = f", mean ± standard deviation of {plural(len(record.seeds), 'seed')}" if len(record.seeds) > 1 else ""
    which = "best" if of_best else "last"
    better = "smaller" if record.direction == "min" else "larger"
    line = f"{shown(record.metric)} of the {which} evaluation ({better} is better){seeds}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    failed = [result for result in rows if result.error]
    by_error = {
        error: [one for one in failed if one.error == error] for error in dict.fromkeys(r.error for r in failed)
    }
    for error, of_error in list(by_error.items())[:_ERRORS]:
        names = some([result.runs[0] for result in of_error])
        console.print(f"{names} failed: {shown(error, 300)}", highlight=False, markup=False, soft_wrap=True)
    if len(by_error) > _ERRORS:
        console.print(f"and others for {len(by_error) - _ERRORS} more reasons", highlight=False)
    if commands := [command for result in failed for name in result.runs if (command := _command(record, name))]:
        line = f"to try it again, and then this command: {commands[0]}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _command(record: Record, run: str) -> str | None:
    """Return the command of a failed run, from its plan; None: it has not failed, or has no plan."""
    end = record.ended.get(run)
    if end is None or end.state != "failed":
        return None
    with suppress(DamagedFile):
        plan = strict_json.read_object(RunDir(paths.RUNS / run).plan, "")
        return shown(str(plan.get("command", "")), 4096) or None
    return None


def _table(record: Record, rows: Sequence[TrialResult], best: TrialResult | None, separate: bool) -> Table:
    """Return the table. `separate`: whether each key has a column of its own."""
    keys = list(dict.fromkeys(key for row in rows for key in row.params))
    names = recipe_differences.short(keys)
    table = Table(box=None, pad_edge=False)
    table.add_column("run" if len(record.seeds) == 1 else "runs", no_wrap=True)
    for name in names if separate else ["values"]:
        table.add_column(escape(shown(name)), overflow="fold")
    table.add_column(escape(shown(record.metric)), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        cells = [escape(shown(text, _CELL)) for text in space.labels(row.params)]
        if not separate:
            cells = [", ".join(f"{escape(shown(name))} {cell}" for name, cell in zip(names, cells, strict=True))]
        state = "best" if row is best else "" if row.complete else _state(row)
        style = "bold green" if row is best else None
        table.add_row(_runs(record, row), *cells, metric(row), state, style=style)
    return table


def metric(result: TrialResult) -> str:
    """Return the text of a trial's metric: its mean, and its deviation over several seeds."""
    if result.mean is None:
        return ""
    spread = "" if result.deviation is None else f" ± {result.deviation:.2g}"
    return f"{result.mean:.4g}{spread}"


def _state(result: TrialResult) -> str:
    if result.state == "pruned":
        return f"pruned at {result.step}"
    return "no finite value" if result.state == "done" else result.state


def _runs(record: Record, result: TrialResult) -> str:
    """Return the name of a trial's run; of several, that of the first and the number of the last."""
    last = result.runs[-1].removeprefix(f"{record.name}-")
    return escape(result.runs[0] if len(result.runs) == 1 else f"{result.runs[0]}..{last}")
