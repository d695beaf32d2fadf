"""A linear decay after the warmup."""

from collections.abc import Sequence
from typing import Literal

from launcher import lr_schedules
from launcher.config.types import Floor, ScheduleConfig
from launcher.lr_schedules import Evaluation


class Config(ScheduleConfig):
    """Linear decay from 1 after the warmup to `floor` at the last step."""

    kind: Literal["linear"] = "linear"
    floor: Floor = 0.0
    """Minimum factor."""


class Schedule(lr_schedules.Schedule[Config]):
    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        return 1 - (1 - self.config.floor) * self.progress(step)
