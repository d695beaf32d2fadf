"""A decay where evaluations stop improving, as in torch."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from launcher import lr_schedules
from launcher.config.types import Floor, ScheduleConfig
from launcher.lr_schedules import Evaluation


class Config(ScheduleConfig):
    """Multiplied by `factor` when the monitored metric stops improving."""

    kind: Literal["plateau"] = "plateau"
    factor: float = Field(0.1, gt=0, lt=1)
    """Multiplier."""
    patience: int = Field(3, ge=0)
    """Consecutive evaluations without improvement that are tolerated."""
    threshold: float = Field(1e-4, ge=0, lt=1)
    """Minimum relative improvement over the best evaluation."""
    cooldown: int = Field(0, ge=0)
    """Evaluations after a multiplication that are not counted."""
    floor: Floor = 0.0
    """Smallest factor."""

    uses_evaluations: ClassVar[bool] = True


class Schedule(lr_schedules.Schedule[Config]):
    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        """Follow torch's ReduceLROnPlateau in its relative mode. The best value is negative where higher is better: it
        also has to improve by `threshold` downwards."""
        config = self.config
        rate, best, bad, cooldown = 1.0, math.inf, 0, 0
        for _, value in evaluations:
            if value < best * (1 - math.copysign(config.threshold, best)):
                best, bad = value, 0
            else:
                bad += 1
            if cooldown:
                cooldown, bad = cooldown - 1, 0
            if bad > config.patience:
                rate, cooldown, bad = max(config.floor, rate * config.factor), config.cooldown, 0
        return rate
