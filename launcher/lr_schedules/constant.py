"""A constant rate after the warmup."""

from collections.abc import Sequence
from typing import Literal

from launcher import lr_schedules
from launcher.config.types import ScheduleConfig
from launcher.lr_schedules import Evaluation


class Config(ScheduleConfig):
    """Constant rate after the warmup."""

    kind: Literal["constant"] = "constant"


class Schedule(lr_schedules.Schedule[Config]):
    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        return 1.0
