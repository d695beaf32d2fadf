"""What the trials of a sweep have reached: the metric of each run, its mean over the seeds, and the best trial."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.config import paths
from launcher.config.errors import UserError
from launcher.storage.run_dir import RunDir
from launcher.tools.sweep.record import Sweep
from launcher.tools.sweep.space import Params

_WITH_VALUE = ("done", "pruned")
"""States of runs whose last evaluation says something about the trial."""


@dataclass(frozen=True)
class TrialResult:
    """A trial with the metric of each seed; None: the run has none, or one that is not finite. `state`: done, failed,
    pruned, or the state of a run that is not over. `error`: why a run failed. `step`: last evaluated step."""

    number: int
    params: Params
    runs: tuple[str, ...]
    values: tuple[float | None, ...]
    state: str
    error: str
    step: int

    @property
    def finite(self) -> list[float]:
        return [value for value in self.values if value is not None]

    @property
    def complete(self) -> bool:
        """Whether the trial has a result with every seed, and so takes part in the comparison."""
        return self.state == "done" and len(self.finite) == len(self.values)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.finite) if self.finite else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds; None for a single one."""
        return statistics.stdev(self.finite) if len(self.finite) > 1 else None


def evaluations(run: RunDir, metric: str) -> dict[int, float]:
    """Return the values of a metric by step; nan for one that is not finite. Only evaluations on the validation samples
    count. Raises DamagedFile."""
    name = f"eval/{metric}"
    found = {line["step"]: line[name] for line in run.lines() if name in line}
    return {step: math.nan if value is None else float(value) for step, value in sorted(found.items())}


def value_of(found: Mapping[int, float], direction: str, best: bool) -> float | None:
    """Return the value of a run: that of the model which it leaves. `best`: whether the best evaluated model is saved;
    if not, the last one counts."""
    finite = {step: value for step, value in found.items() if math.isfinite(value)}
    if best and finite:
        return min(finite.values()) if direction == "min" else max(finite.values())
    return finite.get(max(found, default=0))


def collect(sweep: Sweep, best: bool, states: Mapping[str, str] | None = None) -> list[TrialResult]:
    """Return the results of all trials, in their order. `states`: of runs whose end is not recorded."""
    results = []
    for number, params in enumerate(sweep.record.trials):
        names = sweep.run_names(number)
        ends = [sweep.record.ended.get(name) for name in names]
        found_states = [
            end.state if end else (states or {}).get(name, "not begun") for name, end in zip(names, ends, strict=True)
        ]
        values, step = list[float | None](), 0
        for name, state in zip(names, found_states, strict=True):
            found = _evaluations(name, sweep.record.metric)
            values.append(value_of(found, sweep.record.direction, best) if state in _WITH_VALUE else None)
            step = max(step, max(found, default=0))
        state = next((state for state in found_states if state != "done"), "done")
        error = next((end.error for end in ends if end and end.error), "")
        results.append(TrialResult(number, params, tuple(names), tuple(values), state, error, step))
    return results


def _evaluations(run: str, metric: str) -> dict[int, float]:
    try:
        return evaluations(RunDir(paths.RUNS / run), metric)
    except UserError:  # damaged metrics: launcher status says so
        return {}


def ranked(results: Sequence[TrialResult], direction: str) -> list[TrialResult]:
    """Return the trials in the order of the table: complete ones, the best first, then the others."""

    def key(result: TrialResult) -> tuple[bool, float]:
        mean = result.mean if result.complete else None
        return mean is None, 0.0 if mean is None else mean if direction == "min" else -mean

    return sorted(results, key=key)


def best_of(results: Sequence[TrialResult], direction: str) -> TrialResult | None:
    """Return the best complete trial, the first of equal ones; None: there is none."""
    first = ranked(results, direction)[:1]
    return first[0] if first and first[0].complete else None


def folder(name: str) -> Path:
    """Return the folder of a sweep."""
    return paths.SWEEPS / name
