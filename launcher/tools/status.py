"""What runs, how far, how well: a table of runs, and of one run the history of its job."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.plan import plan
from launcher.storage import job_log
from launcher.tools import run_state, run_status
from launcher.tools.run_state import State
from launcher.tools.run_status import Status

_WAITING = ("pending", "requeued", "running", "cancelled", "stopped")
"""States whose reason stands in the table; it says what there is to wait for."""
_COLOURS = {
    "running": "green", "done": "bold green", "pending": "yellow", "requeued": "yellow", "failed": "bold red",
    "node lost": "red", "killed": "bold red", "time over": "red", "preempted": "red", "made way": "red",
}  # fmt: skip


def status(runs: Sequence[str], as_json: bool, console: Console) -> None:
    """Raises UserError where a folder holds no run."""
    folders = [run_status.named(run) for run in runs] if runs else run_status.found()
    states = run_status.JobStates()
    looked = run_status.every(folders, states)
    if as_json:
        print(json.dumps([asdict(one) for one in looked], indent=1))
        return
    if not looked:
        console.print(f"no run is in {plan.RUNS}/ (launcher run, or launcher submit, begins one)", highlight=False)
        return
    console.print(table(looked))
    for what in (what for one in looked for what in one.damaged):
        console.print(f"[red]{escape(what)}[/]", soft_wrap=True, highlight=False)
    if len(runs) == 1:
        _details(looked[0], console)
    for trouble in states.trouble.values():
        console.print(f"[yellow]note[/]: {escape(trouble)}", soft_wrap=True, highlight=False)


def table(looked: Sequence[Status]) -> Table:
    """A row for each run. A column with nothing in it is left out."""
    made = Table(box=None, pad_edge=False)
    cells = {
        "run": [escape(one.name) for one in looked],
        "state": [_state(one.state) + (", [bold red]damaged[/]" if one.damaged else "") for one in looked],
        "step": [_of(one.step, one.steps) for one in looked],
        "loss": ["" if one.loss is None else f"{one.loss:.4g}" for one in looked],
        "job": [escape(one.id or one.job) for one in looked],
        "where": [escape(_some(one.nodes, 1)) for one in looked],
        "requeues": [str(one.requeues or "") for one in looked],
        "since": [_ago(one.state.since) for one in looked],
    }
    told = {name: column for name, column in cells.items() if any(column) or name in ("run", "state")}
    for name in told:
        words = name in ("run", "state", "where")
        made.add_column(name, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for row in zip(*told.values(), strict=True):
        made.add_row(*row)
    return made


def _state(at: State) -> str:
    colour = _COLOURS.get(at.name, "")
    name = f"[{colour}]{at.name}[/]" if colour else at.name
    return name + escape(f": {at.reason}" if at.reason and at.name in _WAITING else "")


def _details(one: Status, console: Console) -> None:
    """What there is to tell of a single run."""
    if one.state.reason and one.state.name not in _WAITING:
        console.print(one.state.reason, highlight=False, markup=False)
    if one.value is not None:
        console.print(f"{one.metric} {one.value:.4g} at step {one.checkpoint}", highlight=False, markup=False)
    if one.checkpoint is not None and one.state.name != "done":
        console.print(f"it goes on from step {one.checkpoint}", highlight=False)
    if one.limit is not None:
        console.print(f"its time limit ends {_clock(one.limit)}", highlight=False)
    if one.starts:
        _history(one, console)
    if one.error:
        console.print(one.error, highlight=False, markup=False, soft_wrap=True)
    if one.log:
        console.print(f"its log is {one.log}", highlight=False, markup=False, soft_wrap=True)


def _history(one: Status, console: Console) -> None:
    made = Table(box=None, pad_edge=False)
    for name, right in (("start", True), ("begun", False), ("where", False), ("steps", True), ("ended", False)):
        made.add_column(name, justify="right" if right else "left", overflow="fold")
    for number, start in enumerate(one.starts):
        later = one.starts[number + 1] if number + 1 < len(one.starts) else None
        last = start.last if start.last is not None else later.first if later else one.step
        ended = run_state.how(start, later, one.state, scheduled=one.job != job_log.BY_HAND)
        ended += f" {_clock(start.ended, start.begun)}" if start.ended else ""
        without = f", then without {_some(start.excluded)}" if start.excluded else ""
        made.add_row(
            str(number), _clock(start.begun), escape(_some(start.nodes)), f"{start.first:,}-{last:,}",
            escape(ended + without),
        )  # fmt: skip
    console.print()
    console.print(made)


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" +{len(names) - most}" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _of(step: int, steps: int | None) -> str:
    return f"{step:,}/{steps:,}" if steps else f"{step:,}"


def _ago(when: float | None) -> str:
    """How long ago, in one unit."""
    if not when:
        return ""
    seconds = max(0.0, time.time() - when)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _clock(when: float | None, day: float | None = None) -> str:
    """A time of today, or of the `day` that was told before; else the day too."""
    if not when:
        return ""
    there, here = time.localtime(when), time.localtime(day or time.time())
    return time.strftime("%H:%M:%S" if there[:3] == here[:3] else "%Y-%m-%d %H:%M", there)
