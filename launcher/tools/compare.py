"""Runs side by side: the first and the last evaluation of each, beside what frequencies alone would reach."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from launcher.config.errors import UserError
from launcher.plan.facts import Facts
from launcher.plan.folder import RunFolder

_METRICS = ("loss", "accuracy", "f1")


def compare(runs: Sequence[str], console: Console) -> None:
    """One row a run, and the baselines beneath. Raises UserError where a folder holds no evaluation."""
    rows = [_row(RunFolder(Path(run))) for run in runs]
    metrics = [name for name in _METRICS if any(name in row["last"] for row in rows)]
    table = Table(box=None, pad_edge=False)
    table.add_column("run", no_wrap=True)
    for name in ("steps", *metrics):
        table.add_column(name, justify="right")
    baselines: dict[str, list[str]] = {}
    for row in rows:
        cells = [_change(row["first"].get(name), row["last"].get(name)) for name in metrics]
        table.add_row(row["name"], str(row["step"]), *cells)
        for name, value in row["baseline"].items():
            baselines.setdefault(f"{name.replace('_', ' ')} {value:.4f}", []).append(row["name"])
    console.print(table)
    for baseline, names in baselines.items():
        console.print(f"baseline: {baseline} ({', '.join(names)})", highlight=False)


def _row(folder: RunFolder) -> dict[str, Any]:
    if not folder.facts.is_file():
        raise UserError(f"{folder.path}: no run is there (a run folder is named, such as runs/quickstart-pretrain)")
    told = {line["step"]: line for line in folder.lines() if "loss" not in line}
    if not told:
        raise UserError(f"{folder.path}: no evaluation is in its metrics.jsonl (train it, with data.validation)")
    facts = Facts.model_validate_json(folder.facts.read_text(encoding="utf-8"))
    first, last = told[min(told)] if len(told) > 1 else {}, told[max(told)]

    def plain(line: dict[str, Any]) -> dict[str, float]:
        return {key.removeprefix("eval/"): value for key, value in line.items()}

    return {
        "name": folder.path.name, "step": last["step"], "first": plain(first), "last": plain(last),
        "baseline": facts.baseline,
    }  # fmt: skip


def _change(first: float | None, last: float | None) -> str:
    if last is None:
        return ""
    return f"{last:.4f}" if first is None else f"{first:.4f} → {last:.4f}"
