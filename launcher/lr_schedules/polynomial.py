"""A polynomial decay after the warmup."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from launcher import lr_schedules
from launcher.config.types import Floor, ScheduleConfig
from launcher.lr_schedules import Evaluation


class Config(ScheduleConfig):
    """Decay from 1 after the warmup to `floor`, by the remaining share of the run to the power of `power`."""

    kind: Literal["polynomial"] = "polynomial"
    power: float = Field(2.0, gt=0)
    """Exponent."""
    floor: Floor = 0.0
    """Minimum factor."""


class Schedule(lr_schedules.Schedule[Config]):
    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        remaining = 1 - self.progress(step)
        return float(self.config.floor + (1 - self.config.floor) * remaining**self.config.power)
