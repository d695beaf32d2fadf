"""An exponential decay after the warmup."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from launcher import lr_schedules
from launcher.config.types import ScheduleConfig
from launcher.lr_schedules import Evaluation


class Config(ScheduleConfig):
    """Exponential decay after the warmup: by `gamma` in `every` steps."""

    kind: Literal["exponential"] = "exponential"
    gamma: float = Field(gt=0, le=1)
    """Multiplier of the factor over `every` steps."""
    every: int = Field(1, gt=0)
    """Number of steps over which the factor is multiplied by `gamma`."""


class Schedule(lr_schedules.Schedule[Config]):
    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        return float(self.config.gamma ** ((step - self.warmup) / self.config.every))
