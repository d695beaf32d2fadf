"""`launcher compare`: print a table or CSV of runs.

The columns are differing recipe keys, first, last and best evaluations. Baselines follow the table.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from launcher.config import load, strict_json
from launcher.config.base_model import hint
from launcher.config.errors import Problem, UserError
from launcher.config.strict_json import shown
from launcher.config.types import JsonObject
from launcher.plan.facts import of_run
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir
from launcher.tools import recipe_differences

_PREFERRED = ("accuracy", "f1")
"""Metrics to show if a task has one of them; for other tasks the first two metrics are shown."""
_KEYS = 6
"""Maximum columns of recipe keys in the table."""
_CELL = 24
"""Maximum characters of a recipe key's value in the table."""
_UNBOUNDED = 10_000
"""Width of a console that breaks no line of a table."""
LESS_IS_BETTER = ("loss", "perplexity", "mse", "mae", "kl", "length")
"""Metrics that are better when smaller, as in the tasks' `directions`. (No plug-in is imported here.)"""

Values = dict[str, float | None]
"""Metrics by name, without `eval/`; None for a value that is not finite."""


@dataclass(frozen=True)
class EvaluatedRun:
    """A run with its evaluations. `evaluations`: metrics by step, in order. `kept`: steps with a checkpoint.
    `directions`: min or max, by metric that a checkpoint watched."""

    name: str
    recipe: JsonObject
    evaluations: dict[int, Values]
    baseline: dict[str, float]
    kept: frozenset[int]
    directions: Mapping[str, str] = field(default_factory=dict)

    @property
    def first(self) -> Values:
        return self.evaluations[min(self.evaluations)] if len(self.evaluations) > 1 else {}

    @property
    def step(self) -> int:
        return max(self.evaluations)

    @property
    def last(self) -> Values:
        return self.evaluations[self.step]

    @property
    def watched(self) -> str:
        """The metric that the recipe watches."""
        return str(self._evaluate.get("metric", "loss"))

    @property
    def task(self) -> str | None:
        task = self.recipe.get("task")
        return str(task.get("kind")) if isinstance(task, dict) else None

    @property
    def _evaluate(self) -> JsonObject:
        evaluate = self.recipe.get("evaluate")
        return evaluate if isinstance(evaluate, dict) else {}

    def as_loss(self, metric: str, value: float) -> float:
        """Return the value, negated if higher is better."""
        configured = self._evaluate.get("direction") if metric == self.watched else None
        default = "min" if metric in LESS_IS_BETTER else "max"
        return value if (configured or self.directions.get(metric, default)) == "min" else -value

    def best(self, metric: str) -> tuple[float, int] | None:
        """Return the best value of a metric, and the first step with it; None: the run does not have the metric."""
        values = [
            (value, step) for step, metrics in self.evaluations.items() if (value := metrics.get(metric)) is not None
        ]
        return min(values, key=lambda one: (self.as_loss(metric, one[0]), one[1]), default=None)

    def rank(self, metric: str) -> tuple[bool, float]:
        """Return the key by which to sort runs: the best first, and runs without the metric last."""
        best = self.best(metric)
        return (True, 0.0) if best is None else (False, self.as_loss(metric, best[0]))


def compare(paths: Sequence[str], console: Console, sort: str | None = None, as_csv: bool = False) -> None:
    """Print one row for each run. `sort`: sort by the best value of this metric. Raises UserError for a run without an
    evaluation, or if no run has the metric."""
    runs = _load_runs(paths)
    if sort is not None:
        known = {name for run in runs for values in run.evaluations.values() for name in values}
        if sort not in known:
            raise UserError(f"--sort {shown(sort)}: no run has this metric ({hint(sort, known)})")
        runs.sort(key=lambda run: run.rank(sort))
    keys = recipe_differences.differences({str(n): run.recipe for n, run in enumerate(runs)})
    by = sort or _if_equal([run.watched for run in runs])
    if as_csv:
        _write_csv(runs, keys, by)
        return
    columns = _fitting(runs, keys, by, console)
    console.print(_table(runs, {key: keys[key] for key in columns}, by))
    if more := [key for key in keys if key not in columns]:
        console.print(f"they differ too in: {', '.join(more)} (--csv has all)", highlight=False, markup=False)
    if line := _best_of_all(runs, by):
        console.print(line, highlight=False, markup=False)
    for baseline, names in _baselines(runs).items():
        console.print(f"baseline: {baseline} ({', '.join(names)})", highlight=False, markup=False)


def _if_equal(values: Sequence[str]) -> str | None:
    """Return the value that all have in common; None: they differ."""
    return values[0] if len(set(values)) == 1 else None


def _table(runs: Sequence[EvaluatedRun], keys: Mapping[str, Mapping[str, str]], by: str | None) -> Table:
    metrics = list(dict.fromkeys(name for run in runs for name in _shown_metrics(run)))
    table = Table(box=None, pad_edge=False)
    table.add_column("run", no_wrap=True)
    for name in recipe_differences.short(list(keys)):
        table.add_column(escape(shown(name)), overflow="fold")
    for name in ("steps", *metrics):
        table.add_column(escape(_words(name)), justify="right")
    bests = [run.best(by) for run in runs] if by else []
    with_best = len(runs) > 1 and any(best and best[1] != run.step for best, run in zip(bests, runs, strict=False))
    if with_best and by:
        table.add_column(escape(f"best {_words(by)}"), justify="right")
    for n, run in enumerate(runs):
        cells = [_change(run.first.get(name), run.last.get(name)) for name in metrics]
        best = [_at_step(bests[n])] if with_best else []
        values = [escape(shown(keys[key].get(str(n), ""), _CELL)) for key in keys]
        table.add_row(escape(run.name), *values, str(run.step), *cells, *best)
    return table


def _fitting(
    runs: Sequence[EvaluatedRun], keys: Mapping[str, Mapping[str, str]], by: str | None, console: Console
) -> list[str]:
    """Return the first keys whose columns fit next to the metrics without a line break."""
    columns = list[str]()
    for key in keys:
        if len(columns) == _KEYS:
            break
        wider = _table(runs, {one: keys[one] for one in (*columns, key)}, by)
        width = Measurement.get(console, console.options.update(max_width=_UNBOUNDED), wider).maximum
        if width <= console.width:
            columns.append(key)
    return columns


def _best_of_all(runs: Sequence[EvaluatedRun], by: str | None) -> str | None:
    """Return a line about the best evaluation of all runs; None: there is nothing to add to the table."""
    if by is None:
        watched = ", ".join(sorted({run.watched for run in runs}))
        return f"best: not decided, the runs watch different metrics: {watched} (--sort METRIC)"
    candidates = [(run, best) for run in runs if (best := run.best(by)) is not None]
    if not candidates or (len(runs) == 1 and candidates[0][1][1] == runs[0].step):
        return None
    if len(runs) > 1 and _if_equal([run.task or "" for run in runs]) in (None, ""):
        return None  # metrics of different tasks are not comparable
    run, (value, step) = min(candidates, key=lambda one: one[0].rank(by))
    of = f"best of {len(runs)} runs" if len(runs) > 1 else "best"
    kept = "" if step in run.kept else ", of which no checkpoint is kept"
    return f"{of}: {run.name}: {_words(by)} {value:.4f} at step {step}{kept}"


def _baselines(runs: Sequence[EvaluatedRun]) -> dict[str, list[str]]:
    """Return the names of the runs with each baseline, by the baseline's text."""
    names: dict[str, list[str]] = {}
    for run in runs:
        for name, value in run.baseline.items():
            names.setdefault(f"{_words(name)} {value:.4f}", []).append(run.name)
    return names


def _write_csv(runs: Sequence[EvaluatedRun], keys: Mapping[str, Mapping[str, str]], by: str | None) -> None:
    """Print a header and one row for each run, with metrics in full precision. NAME is a metric of the last evaluation,
    first/NAME of the first, and best/NAME of the best one by the metric that runs are compared by."""
    metrics = list(dict.fromkeys(name for run in runs for name in run.last if "/" not in name))
    out = csv.writer(sys.stdout, lineterminator="\n")
    best = [f"best/{by}", "best/step"] if by else []
    out.writerow(["run", *keys, "steps", *metrics, *(f"first/{name}" for name in metrics), *best])
    for n, run in enumerate(runs):
        recipe = [keys[key].get(str(n), "") for key in keys]
        values = [run.last.get(name) for name in metrics] + [run.first.get(name) for name in metrics]
        best_value = (run.best(by) or (None, None)) if by else ()
        out.writerow([run.name, *recipe, run.step, *values, *best_value])


def _shown_metrics(run: EvaluatedRun) -> list[str]:
    """Return the loss, the watched metric and preferred metrics, without those of single classes."""
    names = [name for name in run.last if name != "loss" and "/" not in name]
    preferred = [name for name in _PREFERRED if name in names] or names[:2]
    return [name for name in dict.fromkeys(["loss", run.watched, *preferred]) if name in run.last]


def _load_runs(paths: Sequence[str]) -> list[EvaluatedRun]:
    """Load all runs. Raises UserError with the problems of all runs."""
    runs, problems = [], list[str | Problem]()
    for path in paths:
        try:
            runs.append(_load_run(RunDir(Path(path))))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return runs


def _load_run(folder: RunDir) -> EvaluatedRun:
    if not strict_json.exists(folder.facts):
        raise UserError(f"{folder.path}: no run is there (a run folder is named, such as runs/quickstart-pretrain)")
    lines = {line["step"]: line for line in folder.lines() if "loss" not in line}
    if not lines:
        raise UserError(f"{folder.path}: no evaluation is in its metrics.jsonl (train it, with data.validation)")
    evaluations = {
        step: {key.removeprefix("eval/"): value for key, value in lines[step].items() if key.startswith("eval/")}
        for step in sorted(lines)
    }
    recipe = load.plain(folder.recipe) if folder.recipe.is_file() else {}
    whole = folder.whole()
    kept = frozenset(saved.step for saved in whole)
    baseline = of_run(folder.path).baseline
    return EvaluatedRun(shown(folder.path.name, 255), recipe, evaluations, baseline, kept, metric_directions(whole))


def metric_directions(whole: Sequence[SavedCheckpoint]) -> dict[str, str]:
    """Return min or max for each metric that a checkpoint watched. The direction is found by comparison with the value
    stored as a loss, which is negated for max."""
    directions = {}
    for saved in whole:
        with suppress(strict_json.DamagedFile, KeyError, TypeError):
            watched, metrics = saved.state["watched"], saved.state["evaluation"]
            name, value = watched["metric"], metrics[watched["metric"]]
            if value and abs(watched["value"]) == abs(value):
                directions[name.removeprefix("eval/")] = "min" if watched["value"] == value else "max"
    return directions


def _words(name: str) -> str:
    return shown(name.replace("_", " "))


def _at_step(best: tuple[float, int] | None) -> str:
    return "" if best is None else f"{best[0]:.4f} at {best[1]}"


def _change(first: float | None, last: float | None) -> str:
    if last is None:
        return ""
    return f"{last:.4f}" if first is None else f"{first:.4f} → {last:.4f}"
