"""`launcher status`: print a table of runs; for one run also the history of its job."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config import paths
from launcher.config.atomic_files import allocated_bytes
from launcher.config.format import human
from launcher.storage import memory_folder
from launcher.storage.run_dir import RunDir
from launcher.tools.status import run_state, run_status, run_time
from launcher.tools.status.run_events import JobSchedulers
from launcher.tools.status.run_state import State
from launcher.tools.status.run_status import RunStatus

_REASON_SHOWN = ("pending", "requeued", "running", "cancelled", "stopped")
"""States whose reason is shown in the table."""
_COLOURS = {
    "running": "green", "done": "bold green", "pending": "yellow", "requeued": "yellow", "failed": "bold red",
    "node lost": "red", "killed": "bold red", "time over": "red", "preempted": "red", "made way": "red",
}  # fmt: skip


def status(runs: Sequence[str], as_json: bool, console: Console) -> None:
    """Print the status of these runs; if there are none, of all runs below runs/. Raises UserError for a folder without
    a run."""
    folders = [run_status.find_run(run) for run in runs] if runs else run_status.list_runs()
    schedulers = JobSchedulers()
    statuses = run_status.read_statuses(folders, schedulers)
    if as_json:
        seconds = [run_time.as_json(*pair) for pair in zip(folders, statuses, strict=True)]
        known = [{**asdict(one), "time": parts} for one, parts in zip(statuses, seconds, strict=True)]
        print(json.dumps(known, indent=1))
        return
    if not statuses:
        console.print(f"no run is in {paths.RUNS}/ (launcher run, or launcher submit, begins one)", highlight=False)
        return
    console.print(table(statuses))
    for problem in (problem for one in statuses for problem in one.damaged):
        console.print(f"[red]{escape(problem)}[/]", soft_wrap=True, highlight=False)
    if len(runs) == 1:
        print_details(statuses[0], console)
        run_time.print_seconds(folders[0], statuses[0], console)
    for trouble in (*schedulers.trouble.values(), *schedulers.unusable):
        console.print(f"[yellow]note[/]: {escape(trouble)}", soft_wrap=True, highlight=False)


def table(statuses: Sequence[RunStatus]) -> Table:
    """Return a table with one row for each run. Empty columns are left out."""
    columns = {
        "run": [escape(one.name) for one in statuses],
        "state": [_state(one.state) + (", [bold red]damaged[/]" if one.damaged else "") for one in statuses],
        "step": [_progress(one.step, one.steps) for one in statuses],
        "loss": ["" if one.loss is None else f"{one.loss:.4g}" for one in statuses],
        "job": [escape(one.id or one.job) for one in statuses],
        "where": [escape(_shortened(one.nodes, 1)) for one in statuses],
        "requeues": [str(one.requeues or "") for one in statuses],
        "since": [_age(one.state.since) for one in statuses],
    }
    columns = {name: cells for name, cells in columns.items() if any(cells) or name in ("run", "state")}
    result = Table(box=None, pad_edge=False)
    for name in columns:
        words = name in ("run", "state", "where")
        result.add_column(name, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for row in zip(*columns.values(), strict=True):
        result.add_row(*row)
    return result


def _state(state: State) -> str:
    colour = _COLOURS.get(state.name, "")
    name = f"[{colour}]{state.name}[/]" if colour else state.name
    return name + escape(f": {state.reason}" if state.reason and state.name in _REASON_SHOWN else "")


def print_details(one: RunStatus, console: Console) -> None:
    """Print the details for which the table has no column."""
    if one.state.reason and one.state.name not in _REASON_SHOWN:
        console.print(one.state.reason, highlight=False, markup=False)
    if one.value is not None:
        console.print(f"{one.metric} {one.value:.4g} at step {one.checkpoint}", highlight=False, markup=False)
    if one.checkpoint is not None and one.state.name != "done":
        console.print(f"it goes on from step {one.checkpoint}", highlight=False)
    if copies := memory_folder.existing(RunDir(Path(one.folder))):
        size = human(allocated_bytes(copies.path))
        what = f"or from a later step, by the copies in memory on this machine: {size} in {copies.path}"
        console.print(what, highlight=False, markup=False, soft_wrap=True)
    if one.limit is not None:
        console.print(f"its time limit ends {_clock(one.limit)}", highlight=False)
    if one.starts:
        console.print()
        console.print(_history(one))
    if one.error:
        console.print(one.error, highlight=False, markup=False, soft_wrap=True)
    if one.log:
        console.print(f"its log is {one.log}", highlight=False, markup=False, soft_wrap=True)


def _history(one: RunStatus) -> Table:
    """Return a table with one row for each start of the job."""
    history = Table(box=None, pad_edge=False)
    for name, right in (("start", True), ("begun", False), ("where", False), ("steps", True), ("ended", False)):
        history.add_column(name, justify="right" if right else "left", overflow="fold")
    for number, start in enumerate(one.starts):
        later = one.starts[number + 1] if number + 1 < len(one.starts) else None
        last = start.last if start.last is not None else later.first if later else one.step
        ended = run_state.describe_end(start, later, one.state, scheduled=bool(one.job))
        ended += f" {_clock(start.ended, start.begun)}" if start.ended else ""
        ended += f", then without {_shortened(start.excluded)}" if start.excluded else ""
        history.add_row(
            str(number), _clock(start.begun), escape(_shortened(start.nodes)), f"{start.first:,}-{last:,}",
            escape(ended),
        )  # fmt: skip
    return history


def _shortened(names: Sequence[str], most: int = 3) -> str:
    more = f" +{len(names) - most}" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _progress(step: int, steps: int | None) -> str:
    return f"{step:,}/{steps:,}" if steps else f"{step:,}"


def _age(when: float | None) -> str:
    """Return the time that has passed since then, in one unit."""
    if not when:
        return ""
    seconds = max(0.0, time.time() - when)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _clock(when: float | None, day: float | None = None) -> str:
    """Return the time of day, with the date unless it is the date of `day` (default: now). Both arguments are in
    seconds since the epoch."""
    if not when:
        return ""
    there, here = time.localtime(when), time.localtime(day or time.time())
    return time.strftime("%H:%M:%S" if there[:3] == here[:3] else "%Y-%m-%d %H:%M", there)
