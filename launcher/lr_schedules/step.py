"""A decay at equal intervals."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from launcher import lr_schedules
from launcher.config.types import ScheduleConfig
from launcher.lr_schedules import Evaluation


class Config(ScheduleConfig):
    """Decay at equal intervals: the factor is multiplied by `gamma` every `every` steps."""

    kind: Literal["step"] = "step"
    every: int = Field(gt=0)
    """Number of steps between multiplications."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Multiplier of the factor."""


class Schedule(lr_schedules.Schedule[Config]):
    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        return float(self.config.gamma ** (step // self.config.every))
