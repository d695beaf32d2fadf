"""The record of a sweep, sweeps/NAME/sweep.json: what was asked for, its trials, and how their runs ended.

A run that is not recorded as ended is started again by the same command, and goes on from its checkpoint. What a trial
has reached is not recorded here, but read in the run's metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from launcher.config import strict_json
from launcher.config.atomic_files import write
from launcher.config.errors import UserError, shown
from launcher.config.strict_json import Count, Stored, Word
from launcher.config.types import JsonObject
from launcher.tools.sweep.space import Params

Method = Literal["grid", "random", "optuna"]
Direction = Literal["min", "max"]
Ending = Literal["done", "failed", "pruned"]


class RunEnd(Stored):
    """How a run of a sweep ended. `error`: why it failed."""

    state: Ending
    error: Word = ""


class Record(Stored):
    """Content of sweep.json. The run of trial T with the seed at place S of `seeds` has number T x len(seeds) + S."""

    name: Word
    method: Method
    metric: Word
    direction: Direction
    space: list[str]
    seeds: list[Count]
    trials: list[JsonObject] = []
    ended: dict[Word, RunEnd] = {}


@dataclass(frozen=True)
class Sweep:
    """A sweep with its folder. The record is written again at each change."""

    folder: Path
    record: Record

    @property
    def file(self) -> Path:
        return self.folder / "sweep.json"

    def run_name(self, trial: int, place: int) -> str:
        """Return the name of a trial's run. `place`: of its seed."""
        return f"{self.record.name}-{trial * len(self.record.seeds) + place}"

    def run_names(self, trial: int) -> list[str]:
        return [self.run_name(trial, place) for place in range(len(self.record.seeds))]

    def with_trials(self, trials: Sequence[Params]) -> "Sweep":
        """Write the record with these trials."""
        return self._written(self.record.model_copy(update={"trials": list(trials)}))

    def with_end(self, run: str, end: RunEnd) -> "Sweep":
        """Write the record with the end of a run."""
        return self._written(self.record.model_copy(update={"ended": {**self.record.ended, run: end}}))

    def _written(self, record: Record) -> "Sweep":
        write(self.file, record.model_dump_json(indent=1))
        return replace(self, record=record)


def begin(folder: Path, wanted: Record) -> tuple[Sweep, str]:
    """Begin a sweep, or go on with the one in the folder. Nothing is written. `wanted`: what is asked for, with its
    trials if they are known beforehand. Returns the sweep with all trials, and a note. Raises UserError if the sweep in
    the folder is another one, or has more trials."""
    sweep = Sweep(folder, wanted)
    if not strict_json.exists(sweep.file):
        return sweep, ""
    there = strict_json.read(sweep.file, Record, f"move {folder} away, and the trials train again")
    if problems := list(_differences(there, wanted)):
        advice = "name=OTHER begins another sweep"
        raise UserError([f"{sweep.file}: {shown(problem)} ({advice})" for problem in problems])
    new = [trial for trial in wanted.trials if trial not in there.trials]
    note = f"{folder}: extended by {len(new)} trials to {len(there.trials) + len(new)}" if new and there.trials else ""
    return Sweep(folder, there.model_copy(update={"trials": there.trials + new, "space": wanted.space})), note


def _differences(there: Record, wanted: Record) -> list[str]:
    """Return what keeps the sweep in the folder from going on as `wanted`."""
    problems = [
        f"begun with {what} {before}, and {now} is asked for"
        for what, before, now in (
            ("the method", there.method, wanted.method),
            ("the metric", f"{there.metric} ({there.direction})", f"{wanted.metric} ({wanted.direction})"),
            ("the seeds", there.seeds, wanted.seeds),
        )
        if before != now
    ]
    if problems:
        return problems
    if wanted.method != "grid" and there.space != wanted.space:
        return [f"begun with the values {' '.join(there.space)}, and {' '.join(wanted.space)} are asked for"]
    gone = [trial for trial in there.trials if trial not in wanted.trials] if wanted.method != "optuna" else []
    if gone:
        values = ", ".join(f"{key}={value}" for key, value in gone[0].items())
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        return [f"has trials that are not asked for any more: {values}{more}"]
    return []
