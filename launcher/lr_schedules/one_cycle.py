"""A rise to the full rate and a decay after it (Smith and Topin, 2019), as in torch."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from launcher import lr_schedules
from launcher.config.types import Floor, ScheduleConfig
from launcher.lr_schedules import Evaluation, half_cosine


class Config(ScheduleConfig):
    """Rise from `start_factor` to 1, then decay to `end_factor` at the last step (Smith and Topin, 2019)."""

    kind: Literal["one_cycle"] = "one_cycle"
    peak_at: float = Field(0.3, gt=0, lt=1)
    """Position of the peak, as a fraction of the run's steps."""
    start_factor: Floor = 0.04
    """Factor at the first step."""
    end_factor: Floor = 4e-6
    """Factor at the last step."""
    anneal: Literal["cosine", "linear"] = "cosine"
    """Shape of the rise and the decay."""

    @field_validator("warmup")
    @classmethod
    def _has_its_own(cls, value: float) -> float:
        if value:
            raise PydanticCustomError("warmup", "one_cycle warms up by itself (set peak_at and start_factor instead)")
        return value


class Schedule(lr_schedules.Schedule[Config]):
    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        """Return the factor as torch's OneCycleLR: the peak is one step before the end of the fraction `peak_at`."""
        config, last = self.config, self.steps - 1
        anneal = half_cosine if config.anneal == "cosine" else _linear
        peak = max(0.0, config.peak_at * self.steps - 1)
        if step < peak:
            return anneal(config.start_factor, 1.0, step / peak)
        return anneal(1.0, config.end_factor, min(1.0, (step - peak) / max(1e-9, last - peak)))


def _linear(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress
