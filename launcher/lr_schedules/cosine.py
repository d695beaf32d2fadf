"""A half cosine after the warmup (Loshchilov and Hutter, 2017)."""

from collections.abc import Sequence
from typing import Literal

from launcher import lr_schedules
from launcher.config.types import Floor, ScheduleConfig
from launcher.lr_schedules import Evaluation, half_cosine


class Config(ScheduleConfig):
    """Half a cosine from 1 after the warmup to `floor` at the last step (Loshchilov and Hutter, 2017)."""

    kind: Literal["cosine"] = "cosine"
    floor: Floor = 0.0
    """Minimum factor."""


class Schedule(lr_schedules.Schedule[Config]):
    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        return half_cosine(1.0, self.config.floor, self.progress(step))
