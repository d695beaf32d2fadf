"""A decay when evaluations stop improving, as in torch."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from launcher import lr_schedules
from launcher.config.types import Floor, ScheduleConfig
from launcher.lr_schedules import Evaluation


class Config(ScheduleConfig):
    """Decay when the monitored metric stops improving: the rate is multiplied by `factor`."""

    kind: Literal["plateau"] = "plateau"
    factor: float = Field(0.1, gt=0, lt=1)
    """Multiplier of the rate."""
    patience: int = Field(3, ge=0)
    """Number of consecutive evaluations without improvement that are tolerated."""
    threshold: float = Field(1e-4, ge=0, lt=1)
    """Minimum relative improvement over the best evaluation."""
    cooldown: int = Field(0, ge=0)
    """Number of evaluations after a multiplication that are ignored."""
    floor: Floor = 0.0
    """Minimum factor."""

    uses_evaluations: ClassVar[bool] = True


class Schedule(lr_schedules.Schedule[Config]):
    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        """Return the factor as torch's ReduceLROnPlateau in its relative mode. If higher is better, values are
        negative; also then the next value has to be lower than the best by `threshold` of it."""
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
