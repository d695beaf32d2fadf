"""Repeated half cosines after the warmup (Loshchilov and Hutter, 2017)."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from launcher import lr_schedules
from launcher.config.types import Floor, ScheduleConfig, Span
from launcher.lr_schedules import Evaluation, half_cosine, span_steps


class Config(ScheduleConfig):
    """Repeated half cosines from 1 to `floor` (Loshchilov and Hutter, 2017)."""

    kind: Literal["cosine_restarts"] = "cosine_restarts"
    period: Annotated[Span, Field(gt=0)]
    """Length of the first cosine: a fraction of the run's steps (below 1) or a number of steps."""
    factor: float = Field(1.0, ge=1)
    """Ratio of each cosine's length to the length of the previous one."""
    floor: Floor = 0.0
    """Minimum factor."""


class Schedule(lr_schedules.Schedule[Config]):
    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        length, after = max(1, span_steps(self.config.period, self.steps)), step - self.warmup
        return half_cosine(1.0, self.config.floor, _progress_in_period(after, length, self.config.factor))


def _progress_in_period(step: float, length: float, growth: float) -> float:
    """Return the fraction of the current period that precedes a step.

    `step`: number of steps after the warmup. `length`: steps of the first period. `growth`: factor by which
    each period is longer than the previous one.
    """
    if growth == 1:
        return step % length / length
    while step >= length:
        step, length = step - length, length * growth
    return step / length
