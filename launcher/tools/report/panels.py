"""The figures with curves of one run, or of several runs overlaid."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from launcher.config.strict_json import shown
from launcher.tools.report import time_line
from launcher.tools.report.drawing import Line, Panel, line_of, style
from launcher.tools.report.run_data import RunData
from launcher.tools.report.series import Array, Series
from launcher.tools.status.run_summary import BASELINES

_POINTS = 480
"""Number of points of all the runs of a figure together."""
_METRICS = 6
"""Maximum number of metrics with figures."""
_MARKS = 100
"""Maximum number of marks in a figure."""
_PREFERRED = ("accuracy", "f1", "exact_match", "mse", "perplexity")
_GIB = 2**30


@dataclass(frozen=True)
class Axis:
    """An x axis. `label`: with its unit. `of`: returns its values at some steps of a run."""

    key: str
    label: str
    of: Callable[[RunData, Array], Array]


PanelsOf = Callable[[Sequence[RunData], Axis], list[Panel]]
"""A function that returns the figures of runs over an axis."""


def axes(runs: Sequence[RunData]) -> list[Axis]:
    """Return the axes step, tokens and time. The unit of time suits the longest run."""
    seconds = [run.metrics.training.column("seconds") for run in runs if run.metrics.training.has("seconds")]
    word, size = time_line.unit(max((float(np.nanmax(column)) for column in seconds), default=0.0))
    return [
        Axis("step", "step", lambda run, steps: steps),
        Axis("tokens", "tokens", lambda run, steps: run.metrics.training.at(steps, "tokens")),
        Axis("time", f"training time ({word})", lambda run, steps: run.metrics.training.at(steps, "seconds") / size),
    ]


def metric_names(runs: Sequence[RunData]) -> list[str]:
    """Return the metrics to draw: the loss, the watched ones, and preferred ones, without those of single classes."""
    names = [name for run in runs for name in run.metrics.evaluation.columns if name.startswith("eval/")]
    plain = list(dict.fromkeys(name for name in names if name.count("/") == 1))
    first = ["loss", *(run.watched for run in runs), *_PREFERRED]
    order = list(dict.fromkeys([*(f"eval/{name}" for name in first), *plain]))
    return [name for name in order if name in plain][:_METRICS]


def loss_and_metrics(runs: Sequence[RunData], axis: Axis) -> list[Panel]:
    """Return the figures of the loss and of the metrics of evaluations over an axis."""
    alone, names = len(runs) == 1, metric_names(runs)
    trained = [_line(run, run.metrics.training, "loss", axis, n, len(runs), alone) for n, run in enumerate(runs)]
    panels = list[Panel | None]()
    if alone:
        validation = _line(runs[0], runs[0].metrics.evaluation, "eval/loss", axis, 1, 1, alone)
        lines = [_named(trained[0], "training"), _named(validation, "validation")]
        panels.append(
            _with_spikes(_with_level(_panel("loss", "Loss", "loss", axis, lines), runs, "loss"), runs[0], axis)
        )
    else:
        panels.append(_panel("loss", "Training loss", "loss", axis, trained))
    for name in names:
        if alone and name == "eval/loss":
            continue
        word = name.removeprefix("eval/")
        lines = [_line(run, run.metrics.evaluation, name, axis, n, len(runs), alone) for n, run in enumerate(runs)]
        words = shown(word.replace("_", " "), 30)
        title = f"Validation {words}" if word == "loss" else words[:1].upper() + words[1:]
        panel = _panel(f"eval-{names.index(name)}", title, words, axis, lines)
        panels.append(_with_level(panel, runs, word))
    return [panel for panel in panels if panel is not None]


def optimisation(runs: Sequence[RunData], axis: Axis) -> list[Panel]:
    """Return the figures of the learning rate and of the gradient norm."""
    return _of_columns(runs, axis, {"lr": ("Learning rate", "learning rate"), "grad_norm": ("Gradient norm", "norm")})


def throughput(runs: Sequence[RunData], axis: Axis) -> list[Panel]:
    """Return the figures of the speed, and of the use that is made of what is computed."""
    columns = {
        "tokens_per_second": ("Throughput", "tokens/s of a device"),
        "fill": ("Filled share of the computed positions", "share, without padding"),
        "mfu": ("Model FLOPs utilisation", "share of the peak"),
        "utilization": ("Device utilisation", "% of the time"),
        "power": ("Power of a device", "watts"),
    }
    return _of_columns(runs, axis, columns, {"fill": (0.0, 1.05), "utilization": (0.0, 105.0)})


def memory(runs: Sequence[RunData], axis: Axis) -> list[Panel]:
    """Return the figures of the memory of rank 0's device."""
    columns = {
        "memory_allocated": ("Memory of tensors", "GiB allocated"),
        "memory_reserved": ("Memory held by torch", "GiB reserved"),
    }
    return _of_columns(runs, axis, columns, size=_GIB)


def ranks(runs: Sequence[RunData], axis: Axis) -> list[Panel]:
    """Return, for each run, the figure of the time that ranks spend in their own data and forward passes."""
    names, panels = ("most", "median", "least"), list[Panel | None]()
    for number, run in enumerate(runs):
        training = run.metrics.training
        lines = [
            _named(_line(run, training, f"rank_ms/{name}", axis, n, 3, True), f"{name} of any rank")
            for n, name in enumerate(names)
        ]
        title = "Ranks" if len(runs) == 1 else f"Ranks: {shown(run.name, 30)}"
        panels.append(_panel(f"ranks-{number}", title, "ms a step, data and forward", axis, lines))
    return [panel for panel in panels if panel is not None]


def _of_columns(
    runs: Sequence[RunData],
    axis: Axis,
    columns: dict[str, tuple[str, str]],
    bounds: dict[str, tuple[float, float]] | None = None,
    size: float = 1.0,
) -> list[Panel]:
    """Return a figure for each column that any run has. `columns`: title and unit by name. `size`: of the unit."""
    found = list[Panel]()
    for name, (title, unit) in columns.items():
        lines = [
            _line(run, run.metrics.training, name, axis, n, len(runs), len(runs) == 1, size)
            for n, run in enumerate(runs)
        ]
        panel = _panel(name.replace("_", "-"), title, unit, axis, lines, (bounds or {}).get(name))
        found += [panel] if panel else []
    return found


def _line(
    run: RunData, series: Series, column: str, axis: Axis, number: int, count: int, alone: bool, size: float = 1.0
) -> Line | None:
    x, y = axis.of(run, series.steps), series.column(column) / size
    evaluated = column.startswith("eval/")
    return line_of(x, y, style(number), "" if alone else run.name, max(40, _POINTS // count), evaluated)


def _named(line: Line | None, label: str) -> Line | None:
    return None if line is None else Line(line.points, line.style, label, line.dotted)


def _panel(
    name: str, title: str, unit: str, axis: Axis, lines: Sequence[Line | None],
    bounds: tuple[float, float] | None = None,
) -> Panel | None:  # fmt: skip
    """Return a figure; None: there is nothing to draw."""
    there = [line for line in lines if line is not None]
    if len(there) == 1 and len(lines) > 1 and name == "loss" and there[0].label == "training":
        there = [Line(there[0].points, there[0].style)]
    key = name if axis.key == "step" else f"{name}-by-{axis.key}"
    return Panel(key, title, unit, axis.label, there, bounds=bounds) if there else None


def _with_level(panel: Panel | None, runs: Sequence[RunData], metric: str) -> Panel | None:
    """Return the figure with the baseline of a metric, if the runs share it."""
    found = {
        (name, round(value, 12))
        for run in runs
        for name, value in run.baseline.items()
        if BASELINES.get(name, ("",))[0] == metric
    }
    if panel is None or len(found) != 1:
        return panel
    ((name, level),) = found
    return replace(panel, level=level, level_name=f"baseline: {name.replace('_', ' ')}")


def _with_spikes(panel: Panel | None, run: RunData, axis: Axis) -> Panel | None:
    """Return the figure with marks at the loss spikes of a run, also those whose steps are left out by now."""
    training = run.metrics.training
    recorded = training.steps[np.isfinite(training.column("spike"))]
    steps = np.union1d(recorded, np.array(run.went_back, dtype=np.float64))
    if panel is None or not len(steps):
        return panel
    marks = axis.of(run, steps[:: -(-len(steps) // _MARKS)])
    return replace(panel, marks=[float(mark) for mark in marks if np.isfinite(mark)], mark_name="spike")
