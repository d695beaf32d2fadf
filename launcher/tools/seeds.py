"""Training of a recipe with several seeds, and the mean and the deviation of its metrics.

Each seed is a run with a separate folder. So each one can resume, and a finished one is not trained again.
"""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config import paths
from launcher.config.atomic_files import write
from launcher.config.cluster import Cluster
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.config.types import JsonObject
from launcher.launch import launch_spec
from launcher.launch.execute import Outcome
from launcher.storage.run_dir import RunDir
from launcher.tools import run_command


def train(recipe: Loaded[Recipe], profile: Cluster, ranks: int | None, resume: bool, via: launch_spec.Via) -> Outcome:
    """Train a recipe once for each seed, in order, until a run fails or is stopped. Returns the outcome. `resume`:
    refuse to start if the run of the first seed has no checkpoint. Raises UserError."""
    known = recipe.value
    runs = {
        seed: recipe.override("seeds=1", f"seed={seed}", f"name={known.name}-seed{seed}")
        for seed in range(known.seed, known.seed + known.seeds)
    }
    return train_each("seeds", known, runs, profile, ranks, resume, via)


def train_each(
    what: Literal["seeds", "folds"],
    recipe: Recipe,
    runs: Mapping[int, Loaded[Recipe]],
    profile: Cluster,
    ranks: int | None,
    resume: bool,
    via: launch_spec.Via,
) -> Outcome:
    """Train runs in order, until one fails or is stopped, and summarize them in the folder of the recipe. Returns the
    outcome. `runs`: by seed or fold. Raises UserError."""
    outcome = Outcome(0, {}, [])
    for number, own in runs.items():
        saved = bool(RunDir(paths.RUNS / own.value.name).whole())
        outcome = run_command.train(own, profile, ranks, resume and (saved or number == min(runs)), via)
        if outcome.code:
            return outcome
    names = {number: own.value.name for number, own in runs.items()}
    summary = {"name": recipe.name, what: list(names), "runs": list(names.values()), "metrics": _summarize(names)}
    folder = paths.RUNS / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{what}.json", json.dumps(summary, indent=1))
    _show(what, summary, folder / f"{what}.json", Console())
    return outcome


def _summarize(names: Mapping[int, str]) -> JsonObject:
    """Return the mean and the standard deviation of each metric of the last evaluations. `names`: of the runs."""
    last = [last_evaluation(RunDir(paths.RUNS / name)) for name in names.values()]
    metrics = {}
    for name in last[0]:
        values = [value for metrics_of_run in last if (value := metrics_of_run.get(name)) is not None]
        if len(values) == len(last):
            metrics[name] = {"mean": statistics.fmean(values), "std": statistics.stdev(values), "values": values}
    return metrics


def last_evaluation(folder: RunDir) -> dict[str, float | None]:
    """Return the metrics at the last evaluated step; None for a value that is not finite.

    All runs of a recipe share this step, whichever checkpoint is best. Raises DamagedFile.
    """
    evaluations = [line for line in folder.lines() if "loss" not in line]
    newest: JsonObject = max(reversed(evaluations), key=lambda line: line["step"], default={})
    return {name.removeprefix("eval/"): value for name, value in newest.items() if name.startswith("eval/")}


def _show(what: str, summary: JsonObject, file: Path, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for name in ("mean", "std", "least", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, metric in summary["metrics"].items():
        if "/" not in name:
            numbers = metric["mean"], metric["std"], min(metric["values"]), max(metric["values"])
            table.add_row(escape(name), *(f"{number:.4f}" for number in numbers))
    if table.row_count:
        console.print("the last evaluation of each run")
        console.print(table)
    else:
        console.print("nothing was evaluated: the recipe has no data.validation")
    numbers = summary[what]
    line = f"{len(numbers)} {what}, {numbers[0]} to {numbers[-1]}; in {file}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
