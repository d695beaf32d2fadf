"""A constant rate after the warmup, and a linear decay at the end (Hu et al., 2024)."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from launcher import lr_schedules
from launcher.config.types import Floor, ScheduleConfig
from launcher.lr_schedules import Evaluation


class Config(ScheduleConfig):
    """Constant after the warmup, then a linear decay to `floor` (Hu et al., 2024)."""

    kind: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    decay: float = Field(0.2, gt=0, le=1)
    """Length of the decay, as a fraction of the run's steps."""
    floor: Floor = 0.0
    """Minimum factor."""


class Schedule(lr_schedules.Schedule[Config]):
    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        begin = self.steps - round(self.config.decay * self.steps)
        return 1 - (1 - self.config.floor) * max(0.0, (step - begin) / max(1, self.steps - begin))
