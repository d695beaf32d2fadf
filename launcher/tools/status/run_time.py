"""Where the seconds of a run went: goodput in one line, and a table of the seconds by purpose."""

import time
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config.strict_json import DamagedFile, shown
from launcher.config.types import JsonObject
from launcher.plan.run_estimates import duration
from launcher.storage import goodput, job_log, ledger
from launcher.storage.goodput import RunSeconds
from launcher.storage.run_dir import RunDir
from launcher.tools.status.run_status import RunStatus

_WAITING = ("pending", "requeued")
"""States of a run that starts again by itself."""
DESCRIPTIONS: dict[ledger.Purpose, str] = {
    "start": "imports, joining, loading a checkpoint", "prepare": "planning, preparing data",
    "compile": "torch.compile", "data": "waiting for data", "compute": "of steps that count",
    "communicate": "waiting for other ranks", "save": "held up by checkpoints", "evaluate": "evaluations",
    "hang": "ranks that stood still", "lost": "steps that were repeated, or will be", "down": "nothing ran",
}  # fmt: skip


def read(folder: RunDir, status: RunStatus) -> RunSeconds | None:
    """Return the seconds of a run; None: it has no ledger. Raises DamagedFile."""
    return goodput.account(*_recorded(folder, status))


def time_line(folder: RunDir, status: RunStatus) -> list[dict[ledger.Purpose, float]]:
    """Return the seconds of a run by purpose, from one line of the ledger to the next. Raises DamagedFile."""
    return goodput.time_line(*_recorded(folder, status))


def _recorded(
    folder: RunDir, status: RunStatus
) -> tuple[list[ledger.LedgerLine], list[goodput.Hang], int | None, float | None]:
    """Return the lines of the ledger, the hangs, the step from which the run resumes, and its end.

    A run that waits for its next start is down until now. Steps after the checkpoint of a run that has ended are lost.
    """
    events = job_log.read(folder)
    end = max((float(event.get("time", 0.0)) for event in events if event["event"] == "ended"), default=None)
    running, waiting = status.state.name == "running", status.state.name in _WAITING
    saved = None if running else status.checkpoint or 0
    ended = time.time() if waiting else None if running else end
    return ledger.read(folder), goodput.hangs(events), saved, ended


def as_json(folder: RunDir, status: RunStatus) -> JsonObject | None:
    """Return the seconds of a run for a program; None: they are not known."""
    try:
        seconds = read(folder, status)
    except DamagedFile:
        return None
    return None if seconds is None else asdict(seconds)


def print_seconds(folder: RunDir, status: RunStatus, console: Console) -> None:
    """Print the goodput of a run and the table of its seconds, if it has a ledger."""
    try:
        seconds = read(folder, status)
    except DamagedFile as error:
        for problem in error.problems:
            console.print(f"[red]{escape(shown(str(problem), 4096))}[/]", soft_wrap=True, highlight=False)
        return
    if seconds is None or seconds.total <= 0:
        return
    console.print()
    of = f"of {duration(seconds.total)} went into steps that count"
    console.print(f"goodput {seconds.goodput:.1%}: this share {of}", highlight=False)
    console.print(table(seconds))


def table(seconds: RunSeconds) -> Table:
    """Return a table with one row for each purpose that has seconds."""
    result = Table(box=None, pad_edge=False)
    result.add_column("purpose")
    for name in ("seconds", "percent"):
        result.add_column(name, justify="right")
    result.add_column("")
    for purpose, spent in seconds.parts.items():
        if spent > 0:
            share = f"{spent / seconds.total:.1%}"
            result.add_row(purpose, f"{spent:,.1f}", share, DESCRIPTIONS[purpose])
    result.add_row("together", f"{seconds.total:,.1f}", f"{1:.1%}", "")
    return result
