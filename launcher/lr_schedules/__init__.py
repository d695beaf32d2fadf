"""Learning-rate schedules.

Each kind is one module of this package. It defines a `Config` (a subclass of `launcher.config.types.ScheduleConfig`)
and a class `Schedule` that extends the class below. There is no other registration. Do not import torch, because a plan
imports the module on a login node.

A schedule is a pure function of the step and of the evaluations before it. It keeps no state, so that a resumed run
continues with the same rates.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from launcher.config.errors import Problem
from launcher.config.types import ScheduleConfig

C_co = TypeVar("C_co", bound=ScheduleConfig, covariant=True)
Evaluation = tuple[int, float]
"""The step of an evaluation, and the watched metric, which is negated if higher is better."""


class Schedule(ABC, Generic[C_co]):
    """The factor of the learning rate at each step of a run of `steps` steps. `warmup`: number of warmup steps."""

    def __init__(self, config: C_co, steps: int) -> None:
        self.config, self.steps = config, steps
        self.warmup = span_steps(config.warmup, steps)

    @abstractmethod
    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        """Return the factor at `step`, between 0 and 1. `step`: from 0, and at least `warmup`; `evaluations`: those up
        to it."""

    def factor(self, step: int, evaluations: Sequence[Evaluation] = ()) -> float:
        """Return the factor at `step` (from 0). During the warmup of n steps it rises from 1/n to 1. Evaluations after
        `step` are ignored."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return self.after_warmup(step, [entry for entry in evaluations if entry[0] <= step])

    def progress(self, step: int) -> float:
        """Return the fraction of the steps after the warmup that precede `step`, at most 1."""
        return min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))

    def warnings(self, lr: float) -> list[Problem]:
        """Return warnings about this schedule; empty: there are none. `lr`: the highest learning rate."""
        warmup = self.config.warmup
        if warmup < max(1, self.steps):
            return []
        what = f"{int(warmup):,} steps, and the run has {self.steps:,}: the learning rate never gets to {lr:g}"
        return [Problem("schedule.warmup", f"{what} (fewer steps, or a part of the run such as 0.06)")]


def span_steps(span: float, steps: int) -> int:
    """Return the number of steps of a `launcher.config.types.Span` in a run of `steps` steps."""
    return round(span * steps) if span < 1 else int(span)


def half_cosine(start: float, end: float, progress: float) -> float:
    """Return a point of the half cosine from `start` (at progress 0) to `end` (at progress 1)."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
