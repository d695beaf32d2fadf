"""A recipe trained several times, each with the next seed: how much of a metric is chance.

Each is a run of its own, with a folder of its own: it resumes, and one that is done is not trained again.
"""

import json
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from launcher.config.atomic_files import write
from launcher.config.cluster import Cluster
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.launch import launch_spec
from launcher.launch.execute import Outcome
from launcher.plan import plan
from launcher.storage.run_dir import RunDir
from launcher.tools import run_command


def train(recipe: Loaded[Recipe], profile: Cluster, ranks: int | None, resume: bool, via: launch_spec.Via) -> Outcome:
    """Train a recipe once for each of its seeds. The first run that fails or is stopped is the last. `resume`: refuse
    to start where no run has a checkpoint. Raises UserError."""
    known = recipe.value
    names = {seed: f"{known.name}-seed{seed}" for seed in range(known.seed, known.seed + known.seeds)}
    for seed, name in names.items():
        own = recipe.override("seeds=1", f"seed={seed}", f"name={name}")
        begun = bool(RunDir(plan.RUNS / name).whole())
        outcome = run_command.train(own, profile, ranks, resume and (begun or seed == known.seed), via)
        if outcome.code:
            return outcome
    found = _found(known, names)
    folder = plan.RUNS / known.name
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "seeds.json", json.dumps(found, indent=1))
    _show(found, folder / "seeds.json", Console())
    return outcome


def _found(recipe: Recipe, names: dict[int, str]) -> dict[str, Any]:
    """The last evaluation of each run, and of each metric the mean and the standard deviation."""
    last = [_last(RunDir(plan.RUNS / name)) for name in names.values()]
    metrics = {}
    for name in last[0]:
        values = [value for told in last if (value := told.get(name)) is not None]
        if len(values) == len(last):
            metrics[name] = {"mean": statistics.fmean(values), "std": statistics.stdev(values), "values": values}
    return {"name": recipe.name, "seeds": list(names), "runs": list(names.values()), "metrics": metrics}


def _last(folder: RunDir) -> dict[str, float | None]:
    """The metrics of the last step that was evaluated, whichever checkpoint is the best: what runs of one recipe have
    in common is where they end. None: not finite."""
    told = [line for line in folder.lines() if "loss" not in line]
    newest = max(
        reversed(told), key=lambda line: line["step"], default=dict[str, Any]()
    )  # of two of one step the later line
    return {name.removeprefix("eval/"): value for name, value in newest.items() if name.startswith("eval/")}


def _show(found: dict[str, Any], file: Path, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for name in ("mean", "std", "least", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, told in found["metrics"].items():
        if "/" not in name:
            numbers = told["mean"], told["std"], min(told["values"]), max(told["values"])
            table.add_row(name, *(f"{number:.4f}" for number in numbers))
    if table.row_count:
        console.print("the last evaluation of each run")
        console.print(table)
    else:
        console.print("nothing was evaluated: the recipe has no data.validation")
    seeds = found["seeds"]
    console.print(
        f"{len(seeds)} seeds, {seeds[0]} to {seeds[-1]}; in {file}", highlight=False, markup=False, soft_wrap=True
    )
