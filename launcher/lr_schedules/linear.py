"""A linear decay after the warmup."""

from collections.abc import Sequence
from typing import Literal

from launcher import lr_schedules
from launcher.config.types import Floor, ScheduleConfig
from launcher.lr_schedules import Evaluation


class Config(ScheduleConfig):
    """The factor falls to `floor` at the end of the run."""

    kind: Literal["linear"] = "linear"
    floor: Floor = 0.0


class Schedule(lr_schedules.Schedule[Config]):
    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        return 1 - (1 - self.config.floor) * self.progress(step)
