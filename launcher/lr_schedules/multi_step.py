"""A decay at chosen steps."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from launcher import lr_schedules
from launcher.config.types import ScheduleConfig, Span
from launcher.lr_schedules import Evaluation, span_steps


class Config(ScheduleConfig):
    """Decay at chosen steps: the factor is multiplied by `gamma` at each of the `milestones`."""

    kind: Literal["multi_step"] = "multi_step"
    milestones: tuple[Annotated[Span, Field(gt=0)], ...] = Field(min_length=1)
    """Steps, or fractions of the run, in ascending order."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Multiplier of the factor."""

    @field_validator("milestones")
    @classmethod
    def _one_after_the_other(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in pairwise(value)):
            raise PydanticCustomError("milestones", "should be in ascending order, each once")
        if value[0] < 1 <= value[-1]:
            raise PydanticCustomError("milestones", "should be all fractions of the run, or all steps")
        return value


class Schedule(lr_schedules.Schedule[Config]):
    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        milestones = [span_steps(milestone, self.steps) for milestone in self.config.milestones]
        return float(self.config.gamma ** bisect_right(milestones, step))
