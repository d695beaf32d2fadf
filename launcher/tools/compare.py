"""`launcher compare`: runs side by side, as a table or as CSV: the recipe keys in which they differ, the first and the
last evaluation of each, the best of all, and what frequencies alone would reach."""

import csv
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from launcher.config import load, strict_json
from launcher.config.errors import Problem, UserError
from launcher.config.strict_json import shown
from launcher.config.types import hint
from launcher.plan.facts import of_run
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir
from launcher.tools import recipe_differences

_KNOWN = ("accuracy", "f1")
"""What says most where a task has it; of other tasks the first two metrics are shown."""
_KEYS = 6
"""Columns of recipe keys in the table, at the most."""
_CELL = 24
"""Characters of a key's value that are shown there."""
_UNBOUNDED = 10_000
"""The width of a console on which no table has to break a line."""
LESS_IS_BETTER = ("loss", "perplexity", "mse", "mae", "kl", "length")
"""Metrics of which less is better, as the tasks' `directions` have them: no plug-in is imported here."""

Values = dict[str, float | None]
"""Metrics by name, without `eval/`; one that was not finite is None."""


@dataclass(frozen=True)
class _Run:
    """`evaluations`: by step, in order. `kept`: the steps whose checkpoints are there. `watched`: the metric that the
    recipe watches. `directions`: of metrics that its checkpoints have watched, min or max."""

    name: str
    recipe: dict[str, Any]
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
        return str(self._evaluate.get("metric", "loss"))

    @property
    def task(self) -> str | None:
        task = self.recipe.get("task")
        return str(task.get("kind")) if isinstance(task, dict) else None

    @property
    def _evaluate(self) -> dict[str, Any]:
        evaluate = self.recipe.get("evaluate")
        return evaluate if isinstance(evaluate, dict) else {}

    def turned(self, metric: str, value: float) -> float:
        """The value such that less is better."""
        given = self._evaluate.get("direction") if metric == self.watched else None
        usual = "min" if metric in LESS_IS_BETTER else "max"
        return value if (given or self.directions.get(metric, usual)) == "min" else -value

    def best(self, metric: str) -> tuple[float, int] | None:
        """The best value of a metric and the first step that reached it."""
        found = [
            (value, step) for step, values in self.evaluations.items() if (value := values.get(metric)) is not None
        ]
        return min(found, key=lambda one: (self.turned(metric, one[0]), one[1]), default=None)

    def rank(self, metric: str) -> tuple[bool, float]:
        """What runs are sorted by, the best first; those without the metric come last."""
        found = self.best(metric)
        return (True, 0.0) if found is None else (False, self.turned(metric, found[0]))


def compare(paths: Sequence[str], console: Console, sort: str | None = None, as_csv: bool = False) -> None:
    """Print one row for each run. `sort`: a metric, by whose best value the rows are ordered. Raises UserError where a
    folder holds no evaluation, or no run has that metric."""
    runs = _runs(paths)
    if sort is not None:
        known = {name for run in runs for values in run.evaluations.values() for name in values}
        if sort not in known:
            raise UserError(f"--sort {shown(sort)}: no run has this metric ({hint(sort, known)})")
        runs.sort(key=lambda run: run.rank(sort))
    keys = recipe_differences.of({str(n): run.recipe for n, run in enumerate(runs)})
    by = sort or _common([run.watched for run in runs])
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


def _common(values: Sequence[str]) -> str | None:
    return values[0] if len(set(values)) == 1 else None


def _table(runs: Sequence[_Run], keys: Mapping[str, Mapping[str, str]], by: str | None) -> Table:
    metrics = list(dict.fromkeys(name for run in runs for name in _metrics(run)))
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
        found = [_at(bests[n])] if with_best else []
        given = [escape(shown(keys[key].get(str(n), ""), _CELL)) for key in keys]
        table.add_row(escape(run.name), *given, str(run.step), *cells, *found)
    return table


def _fitting(
    runs: Sequence[_Run], keys: Mapping[str, Mapping[str, str]], by: str | None, console: Console
) -> list[str]:
    """The first keys whose columns stand beside the metrics without a line break."""
    columns = list[str]()
    for key in keys:
        if len(columns) == _KEYS:
            break
        wider = _table(runs, {one: keys[one] for one in (*columns, key)}, by)
        wanted = Measurement.get(console, console.options.update(max_width=_UNBOUNDED), wider).maximum
        if wanted <= console.width:
            columns.append(key)
    return columns


def _best_of_all(runs: Sequence[_Run], by: str | None) -> str | None:
    """The best evaluation of all runs; of a single run only where it is not the last one."""
    if by is None:
        watched = ", ".join(sorted({run.watched for run in runs}))
        return f"best: not decided, the runs watch different metrics: {watched} (--sort METRIC)"
    found = [(run, best) for run in runs if (best := run.best(by)) is not None]
    if not found or (len(runs) == 1 and found[0][1][1] == runs[0].step):
        return None
    if len(runs) > 1 and _common([run.task or "" for run in runs]) in (None, ""):
        return None  # of another task, the same metric measures something else
    run, (value, step) = min(found, key=lambda one: one[0].rank(by))
    of = f"best of {len(runs)} runs" if len(runs) > 1 else "best"
    kept = "" if step in run.kept else ", of which no checkpoint is kept"
    return f"{of}: {run.name}: {_words(by)} {value:.4f} at step {step}{kept}"


def _baselines(runs: Sequence[_Run]) -> dict[str, list[str]]:
    """The runs that have each baseline, by how it is printed."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for name, value in run.baseline.items():
            found.setdefault(f"{_words(name)} {value:.4f}", []).append(run.name)
    return found


def _write_csv(runs: Sequence[_Run], keys: Mapping[str, Mapping[str, str]], by: str | None) -> None:
    """Print a header and one row for each run, metrics in full precision: those of the last evaluation by their names,
    those of the first as first/NAME, and the best of the metric that runs are compared by."""
    metrics = list(dict.fromkeys(name for run in runs for name in run.last if "/" not in name))
    out = csv.writer(sys.stdout, lineterminator="\n")
    best = [f"best/{by}", "best/step"] if by else []
    out.writerow(["run", *keys, "steps", *metrics, *(f"first/{name}" for name in metrics), *best])
    for n, run in enumerate(runs):
        given = [keys[key].get(str(n), "") for key in keys]
        values = [run.last.get(name) for name in metrics] + [run.first.get(name) for name in metrics]
        found = (run.best(by) or (None, None)) if by else ()
        out.writerow([run.name, *given, run.step, *values, *found])


def _metrics(run: _Run) -> list[str]:
    """The loss, the metric that is watched, and what else says most; none of single classes."""
    names = [name for name in run.last if name != "loss" and "/" not in name]
    most = [name for name in _KNOWN if name in names] or names[:2]
    return [name for name in dict.fromkeys(["loss", run.watched, *most]) if name in run.last]


def _runs(paths: Sequence[str]) -> list[_Run]:
    """Raises UserError with what is wrong with each."""
    runs, problems = [], list[str | Problem]()
    for path in paths:
        try:
            runs.append(_run(RunDir(Path(path))))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return runs


def _run(folder: RunDir) -> _Run:
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
    return _Run(shown(folder.path.name, 255), recipe, evaluations, baseline, kept, _directions(whole))


def _directions(whole: Sequence[SavedCheckpoint]) -> dict[str, str]:
    """Whether less or more is better, of each metric that a checkpoint has watched: its value stands there turned."""
    found = {}
    for saved in whole:
        with suppress(strict_json.DamagedFile, KeyError, TypeError):
            watched, metrics = saved.state["watched"], saved.state["evaluation"]
            name, value = watched["metric"], metrics[watched["metric"]]
            if value and abs(watched["value"]) == abs(value):
                found[name.removeprefix("eval/")] = "min" if watched["value"] == value else "max"
    return found


def _words(name: str) -> str:
    return shown(name.replace("_", " "))


def _at(best: tuple[float, int] | None) -> str:
    return "" if best is None else f"{best[0]:.4f} at {best[1]}"


def _change(first: float | None, last: float | None) -> str:
    if last is None:
        return ""
    return f"{last:.4f}" if first is None else f"{first:.4f} → {last:.4f}"
