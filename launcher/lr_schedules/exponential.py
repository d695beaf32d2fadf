"""An exponential decay after the warmup."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from launcher import lr_schedules
from launcher.config.types import ScheduleConfig
from launcher.lr_schedules import Evaluation


class Config(ScheduleConfig):
    """The factor is multiplied by `gamma` over `every` steps, by an equal part of it at each."""

    kind: Literal["exponential"] = "exponential"
    gamma: float = Field(gt=0, le=1)
    every: int = Field(1, gt=0)


class Schedule(lr_schedules.Schedule[Config]):
    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        return float(self.config.gamma ** ((step - self.warmup) / self.config.every))
