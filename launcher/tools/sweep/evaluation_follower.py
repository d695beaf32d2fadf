"""Following of a run's evaluations while it trains, so that a hopeless trial is stopped."""

import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Protocol

from launcher.config.errors import UserError
from launcher.storage import stop_file
from launcher.storage.run_dir import RunDir
from launcher.tools.sweep import results

_INTERVAL = 0.25
"""Least seconds between two looks at the run's metrics."""
_REST = 20
"""Times as long as a look took, until the next one: the metrics of a long run take seconds to read."""


class PrunedTrial(Protocol):
    """A trial that is given the evaluations of its run, and decides about its end (see optuna.trial.Trial)."""

    def report(self, value: float, step: int) -> None: ...

    def should_prune(self) -> bool: ...


class EvaluationFollower:
    """Reads new evaluations in a run's metrics.jsonl on a thread, and asks the run to save and leave, as `launcher
    stop` does, when the trial should be pruned.

    `trial`: gets each evaluation once, in the order of the steps. `reported`: steps that it has from an earlier start.
    `steps`: of the whole run, whose last evaluation comes too late to save anything.
    """

    def __init__(self, trial: PrunedTrial, run: RunDir, metric: str, reported: set[int], steps: int | None):
        self.pruned = False
        """Whether the run was asked to leave."""
        self._trial, self._run, self._metric, self._steps = trial, run, metric, steps
        self._reported, self._first = reported, bool(reported)
        self._size, self._ended = -1, threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "EvaluationFollower":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(UserError):
            self._report()

    def _follow(self) -> None:
        pause = _INTERVAL
        while not self._ended.wait(pause):
            begin = time.monotonic()
            with suppress(UserError, OSError):  # damaged metrics end the run, not its follower
                if not self.pruned and (self._report() or self._first) and self._trial.should_prune():
                    stop_file.write(self._run)
                    self.pruned = True
                self._first = False
            pause = max(_INTERVAL, _REST * (time.monotonic() - begin))

    def _report(self) -> bool:
        """Report the new evaluations. Returns whether there is one after which the run goes on."""
        size = self._run.metrics.stat().st_size if self._run.metrics.is_file() else 0
        if size == self._size:
            return False
        self._size = size
        found = results.evaluations(self._run, self._metric)
        new = {step: value for step, value in found.items() if step not in self._reported}
        for step, value in new.items():
            self._trial.report(value, step)
            self._reported.add(step)
        return bool(new) and (self._steps is None or max(new) < self._steps)
