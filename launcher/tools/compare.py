"""Runs side by side: the first and the last evaluation of each, beside what frequencies alone would reach."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config import json_files, load
from launcher.config.errors import Problem, UserError
from launcher.config.json_files import shown
from launcher.plan.facts import of_run
from launcher.plan.folder import RunFolder, best

_KNOWN = ("accuracy", "f1")
"""What says most where a task has it; of other tasks the first two metrics are shown."""


def compare(runs: Sequence[str], console: Console) -> None:
    """One row a run, and the baselines beneath. Raises UserError where a folder holds no evaluation."""
    rows = _rows(runs)
    metrics = list(dict.fromkeys(name for row in rows for name in _metrics(row)))
    table = Table(box=None, pad_edge=False)
    table.add_column("run", no_wrap=True)
    for name in ("steps", *metrics):
        table.add_column(escape(shown(name.replace("_", " "))), justify="right")
    baselines: dict[str, list[str]] = {}
    for row in rows:
        cells = [_change(row["first"].get(name), row["last"].get(name)) for name in metrics]
        table.add_row(escape(row["name"]), str(row["step"]), *cells)
        for name, value in row["baseline"].items():
            baselines.setdefault(f"{shown(name.replace('_', ' '))} {value:.4f}", []).append(row["name"])
    console.print(table)
    for row in rows:
        if row["best"]:
            console.print(f"best: {row['name']} {row['best']}", highlight=False, markup=False)
    for baseline, names in baselines.items():
        console.print(f"baseline: {baseline} ({', '.join(names)})", highlight=False, markup=False)


def _metrics(row: dict[str, Any]) -> list[str]:
    """The loss, the metric that is watched, and what else says most; none of single classes."""
    names = [name for name in row["last"] if name != "loss" and "/" not in name]
    most = [name for name in _KNOWN if name in names] or names[:2]
    return [name for name in dict.fromkeys(["loss", row["watched"], *most]) if name in row["last"]]


def _rows(runs: Sequence[str]) -> list[dict[str, Any]]:
    """Raises UserError with what is wrong with each."""
    rows, problems = [], list[str | Problem]()
    for run in runs:
        try:
            rows.append(_row(RunFolder(Path(run))))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return rows


def _row(folder: RunFolder) -> dict[str, Any]:
    if not json_files.exists(folder.facts):
        raise UserError(f"{folder.path}: no run is there (a run folder is named, such as runs/quickstart-pretrain)")
    told = {line["step"]: line for line in folder.lines() if "loss" not in line}
    if not told:
        raise UserError(f"{folder.path}: no evaluation is in its metrics.jsonl (train it, with data.validation)")
    facts = of_run(folder.path)
    first, last = told[min(told)] if len(told) > 1 else {}, told[max(told)]

    def plain(line: dict[str, Any]) -> dict[str, float | None]:
        """By the name of the metric; one that was not finite is None."""
        return {key.removeprefix("eval/"): value for key, value in line.items() if key.startswith("eval/")}

    watched = _watched(folder)
    return {
        "name": shown(folder.path.name, 255), "step": last["step"], "first": plain(first), "last": plain(last),
        "baseline": facts.baseline, "watched": watched, "best": _best(folder, watched),
    }  # fmt: skip


def _watched(folder: RunFolder) -> str:
    """The metric of the run's recipe; what else that names is not looked at."""
    evaluate = load.plain(folder.recipe).get("evaluate") if folder.recipe.is_file() else None
    return str(evaluate.get("metric", "loss")) if isinstance(evaluate, dict) else "loss"


def _best(folder: RunFolder, watched: str) -> str:
    """The best checkpoint, by the metric that is watched; nothing where it is the last one."""
    whole = folder.whole()
    saved = best(whole)
    if saved is None or saved == whole[-1]:
        return ""
    value = saved.state["evaluation"].get(f"eval/{watched}", saved.state.get("watched", {}).get("value", math.nan))
    return f"{watched.replace('_', ' ')} {value:.4f} at step {saved.step}"


def _change(first: float | None, last: float | None) -> str:
    if last is None:
        return ""
    return f"{last:.4f}" if first is None else f"{first:.4f} → {last:.4f}"
