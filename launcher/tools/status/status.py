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
from launcher.config.errors import UserError
from launcher.config.format import human, plural
from launcher.config.strict_json import shown
from launcher.plan.run_estimates import remaining
from launcher.storage import memory_folder
from launcher.storage.run_dir import RunDir
from launcher.tools.status import run_state, run_status, run_time, watch
from launcher.tools.status.run_events import JobSchedulers
from launcher.tools.status.run_state import State
from launcher.tools.status.run_status import RunStatus

_REASON_SHOWN = ("pending", "requeued", "running", "cancelled", "stopped")
"""States whose reason is shown in the table."""
_WIDE = 110
"""Columns of a console that has room for the goodput of all runs."""
_COLOURS = {
    "running": "green", "done": "bold green", "pending": "yellow", "requeued": "yellow", "failed": "bold red",
    "node lost": "red", "killed": "bold red", "time over": "red", "preempted": "red", "made way": "red",
}  # fmt: skip


def status(runs: Sequence[str], as_json: bool, console: Console, watched: bool = False) -> None:
    """Print the status of these runs; if there are none, of all runs below runs/. `watched`: again and again, until
    interrupted. Raises UserError for a folder without a run."""
    if watched and as_json:
        raise UserError("--json: has one moment (leave --watch out)")
    if watched:
        watch.watch(lambda to: _print(runs, to))
        return
    if not as_json:
        _print(runs, console)
        return
    folders = _folders(runs)
    statuses = run_status.read_statuses(folders, JobSchedulers())
    seconds = [run_time.as_json(*pair) for pair in zip(folders, statuses, strict=True)]
    known = [{**asdict(one), "time": parts} for one, parts in zip(statuses, seconds, strict=True)]
    print(json.dumps(known, indent=1))


def _folders(runs: Sequence[str]) -> list[RunDir]:
    return [run_status.find_run(run) for run in runs] if runs else run_status.list_runs()


def _print(runs: Sequence[str], console: Console) -> bool:
    """Print the table of runs, and the details of a run that is named alone. Returns whether a scheduler was asked."""
    folders, schedulers = _folders(runs), JobSchedulers()
    statuses = run_status.read_statuses(folders, schedulers)
    if not statuses:
        console.print(f"no run is in {paths.RUNS}/ (launcher run, or launcher submit, begins one)", highlight=False)
        return False
    console.print(table(statuses, console.width))
    for problem in (problem for one in statuses for problem in one.damaged):
        console.print(f"[red]{escape(problem)}[/]", soft_wrap=True, highlight=False)
    if len(runs) == 1:
        print_details(statuses[0], console)
        run_time.print_seconds(folders[0], statuses[0], console)
    for trouble in (*schedulers.trouble.values(), *schedulers.unusable):
        console.print(f"[yellow]note[/]: {escape(trouble)}", soft_wrap=True, highlight=False)
    return any(one.job and one.state.name in ("pending", "requeued", "running") for one in statuses)


def table(statuses: Sequence[RunStatus], width: int = 80) -> Table:
    """Return a table with one row for each run. Empty columns are left out. `width`: columns of the console."""
    columns = {
        "run": [escape(one.name) for one in statuses],
        "state": [_state(one.state) + (", [bold red]damaged[/]" if one.damaged else "") for one in statuses],
        "step": [_progress(one.step, one.steps) for one in statuses],
        "left": ["" if one.left is None else remaining(one.left) for one in statuses],
        "loss": ["" if one.loss is None else f"{one.loss:.4g}" for one in statuses],
        "job": [escape(one.id or one.job) for one in statuses],
        "where": [escape(_shortened(one.nodes, 1)) for one in statuses],
        "requeues": [str(one.requeues or "") for one in statuses],
        "since": [_age(one.state.since) for one in statuses],
    }
    if width >= _WIDE:
        columns["goodput"] = ["" if one.goodput is None else f"{one.goodput:.1%}" for one in statuses]
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
    print_resume(one, console)
    counts = [plural(count, what) for count, what in ((one.restarts, "restart"), (one.hangs, "hang")) if count]
    if counts:
        console.print(f"{' and '.join(counts)} of its ranks in the last start", highlight=False)
    if one.limit is not None:
        console.print(f"its time limit ends {_clock(one.limit)}", highlight=False)
    if one.starts:
        console.print()
        console.print(_history(one))
    if one.error:
        console.print(one.error, highlight=False, markup=False, soft_wrap=True)
    if one.log:
        console.print(f"its log is {one.log}", highlight=False, markup=False, soft_wrap=True)


def print_resume(one: RunStatus, console: Console) -> None:
    """Print from which step a run goes on, and the command for it."""
    if one.memory_copy is not None:
        disk = f"step {one.checkpoint} is on disk" if one.checkpoint is not None else "no checkpoint is on disk"
        what = f"it goes on from step {one.memory_copy}, by the copy in the memory of this machine ({disk})"
        console.print(what, highlight=False, markup=False, soft_wrap=True)
    elif one.checkpoint is not None and one.state.name != "done":
        console.print(f"it goes on from step {one.checkpoint}", highlight=False)
    elif one.command and one.state.name != "ready":
        console.print("no checkpoint was saved: it begins anew", highlight=False)
    if copies := memory_folder.existing(RunDir(Path(one.folder))):
        size = human(allocated_bytes(copies.path))
        what = f"copies in memory on this machine: {size} in {copies.path}"
        console.print(what, highlight=False, markup=False, soft_wrap=True)
    if one.command:
        console.print(f"to go on: {shown(one.command, 4096)}", highlight=False, markup=False, soft_wrap=True)


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
