"""Optuna's part of a sweep: it chooses the values of each trial from the results of those before.

Its storage is a journal in the sweep's folder, which Optuna's own tools read. Each trial has a sampler with a seed of
its own, so that a sweep that was killed chooses as one that was not.
"""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.config.document import Value
from launcher.tools.sweep.results import TrialResult
from launcher.tools.sweep.space import Choices, Dimension, Params

if TYPE_CHECKING:
    import optuna

JOURNAL = "optuna.journal"


def check_installed() -> str | None:
    """Return a message if Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        return "--optuna: Optuna is not installed (pip install 'launcher[optuna]'; --random needs nothing)"
    return None


class Study:
    """A study in the folder of a sweep. Only one process writes it, which holds the sweep's lease."""

    def __init__(self, folder: Path, name: str, direction: str, dimensions: Sequence[Dimension], seed: int):
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._dimensions, self._seed = dimensions, seed
        self._study: optuna.Study = optuna.create_study(
            study_name=name,
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(_mended(folder / JOURNAL)))),
            direction="minimize" if direction == "min" else "maximize",
            pruner=optuna.pruners.MedianPruner(),
            load_if_exists=True,
        )

    def trial(self, number: int) -> "tuple[optuna.trial.Trial, Params]":
        """Return a trial with its values: the next one, or one that an earlier command has begun."""
        import optuna

        self._study.sampler = optuna.samplers.TPESampler(seed=(self._seed + number) % 2**32)
        begun = {one.number: one for one in self._study.get_trials(deepcopy=False)}
        trial = optuna.trial.Trial(self._study, begun[number]._trial_id) if number in begun else self._study.ask()
        return trial, {one.key: _suggest(trial, one) for one in self._dimensions}

    def is_finished(self, number: int) -> bool:
        return any(one.number == number and one.state.is_finished() for one in self._study.get_trials(deepcopy=False))

    def reported(self, number: int) -> set[int]:
        """Return the steps whose evaluations a trial has already."""
        return set(self._study.get_trials(deepcopy=False)[number].intermediate_values)

    def finish(self, result: TrialResult) -> None:
        """Record the result of a trial: its mean, or that it was pruned or has none."""
        from optuna.trial import TrialState

        if result.complete:
            self._study.tell(result.number, result.mean)
        else:
            self._study.tell(result.number, state=TrialState.PRUNED if result.state == "pruned" else TrialState.FAIL)


def _suggest(trial: "optuna.trial.Trial", dimension: Dimension) -> Value:
    """Return the value of a key. A value that the trial has already stays."""
    if isinstance(dimension, Choices):
        names = [_name(value) for value in dimension.values]
        return dimension.values[names.index(trial.suggest_categorical(dimension.key, names))]
    if dimension.whole:
        return trial.suggest_int(dimension.key, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(dimension.key, dimension.low, dimension.high, log=dimension.log)


def _name(value: Value) -> Value:
    """Return a value as a category of Optuna, which may be a text or a number."""
    plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    return value if plain and not (isinstance(value, float) and math.isnan(value)) else json.dumps(value)


def _mended(file: Path) -> Path:
    """Return the journal without a last line that was cut, and without the lock of a process that was killed."""
    with suppress(FileNotFoundError):
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with file.open("r+b") as opened:
                opened.truncate(len(whole))
    file.with_name(f"{file.name}.lock").unlink(missing_ok=True)
    return file


def check_dimensions(dimensions: Sequence[Dimension]) -> list[str]:
    """Return a message for each list with a single value, of which there is nothing to choose."""
    return [
        f"{one.origin}: one value is nothing to choose from ({one.key}={one.values[0]} behind the recipe sets it)"
        for one in dimensions
        if isinstance(one, Choices) and len(one.values) == 1
    ]
