"""The schedules of the learning rate that a recipe may name, each with all its keys (launcher.train.lr_schedule)."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SerializeAsAny, field_validator
from pydantic_core import PydanticCustomError

from launcher.config.types import Strict, one_of


def _whole_steps(value: float) -> float:
    if value >= 1 and value != int(value):
        raise PydanticCustomError("span", "is a fraction below 1 or a whole number of steps")
    return value


Span = Annotated[float, Field(ge=0), AfterValidator(_whole_steps)]
"""A part of a run: a fraction of its steps (below 1), or their number."""
Floor = Annotated[float, Field(ge=0, le=1)]


class _Schedule(Strict):
    """Keys of every schedule. A schedule is a factor of the learning rate."""

    warmup: Span = 0.0
    """Length of a linear warmup from 0 to `lr`: a fraction of the run's steps (below 1) or a number of steps."""


class Constant(_Schedule):
    """The factor 1 after the warmup."""

    kind: Literal["constant"] = "constant"
    """`constant`"""


class Linear(_Schedule):
    """Linear decay from 1 after the warmup to `floor` at the last step."""

    kind: Literal["linear"] = "linear"
    """`linear`"""
    floor: Floor = 0.0
    """Smallest factor."""


class Cosine(_Schedule):
    """Half a cosine from 1 after the warmup to `floor` at the last step (Loshchilov and Hutter, 2017)."""

    kind: Literal["cosine"] = "cosine"
    """`cosine`"""
    floor: Floor = 0.0
    """Smallest factor."""


class CosineRestarts(_Schedule):
    """Repeated half cosines from 1 to `floor` (Loshchilov and Hutter, 2017)."""

    kind: Literal["cosine_restarts"] = "cosine_restarts"
    """`cosine_restarts`"""
    period: Annotated[Span, Field(gt=0)]
    """Length of the first cosine: a fraction of the run's steps (below 1) or a number of steps."""
    factor: float = Field(1.0, ge=1)
    """Ratio of each cosine's length to that of the one before."""
    floor: Floor = 0.0
    """Smallest factor."""


class Polynomial(_Schedule):
    """Decay from 1 after the warmup to `floor`, by the remaining share of the run to the power of `power`."""

    kind: Literal["polynomial"] = "polynomial"
    """`polynomial`"""
    power: float = Field(2.0, gt=0)
    """Exponent."""
    floor: Floor = 0.0
    """Smallest factor."""


class WarmupStableDecay(_Schedule):
    """Constant after the warmup, then a linear decay to `floor` (Hu et al., 2024)."""

    kind: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    """`warmup_stable_decay`"""
    decay: float = Field(0.2, gt=0, le=1)
    """Length of the decay, as a fraction of the run's steps."""
    floor: Floor = 0.0
    """Smallest factor."""


class StepDecay(_Schedule):
    """Multiplied by `gamma` every `every` steps."""

    kind: Literal["step"] = "step"
    """`step`"""
    every: int = Field(gt=0)
    """Steps between multiplications."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Multiplier."""


class MultiStep(_Schedule):
    """Multiplied by `gamma` at each of the `milestones`."""

    kind: Literal["multi_step"] = "multi_step"
    """`multi_step`"""
    milestones: tuple[Annotated[Span, Field(gt=0)], ...] = Field(min_length=1)
    """Steps, or fractions of the run, in ascending order."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Multiplier."""

    @field_validator("milestones")
    @classmethod
    def _one_after_the_other(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in pairwise(value)):
            raise PydanticCustomError("milestones", "should be in ascending order, each once")
        if value[0] < 1 <= value[-1]:
            raise PydanticCustomError("milestones", "should be all fractions of the run, or all steps")
        return value


class Exponential(_Schedule):
    """Exponential decay after the warmup: by `gamma` in `every` steps."""

    kind: Literal["exponential"] = "exponential"
    """`exponential`"""
    gamma: float = Field(gt=0, le=1)
    """Multiplier in the course of `every` steps."""
    every: int = Field(1, gt=0)
    """Steps in which the factor changes by `gamma`."""


class OneCycle(_Schedule):
    """From `start_factor` up to 1 and down to `end_factor` at the last step, in half cosines or lines (Smith and Topin,
    2019)."""

    kind: Literal["one_cycle"] = "one_cycle"
    """`one_cycle`"""
    peak_at: float = Field(0.3, gt=0, lt=1)
    """Position of the peak, as a fraction of the run's steps."""
    start_factor: Floor = 0.04
    """Factor at the first step."""
    end_factor: Floor = 4e-6
    """Factor at the last step."""
    anneal: Literal["cosine", "linear"] = "cosine"
    """Shape of both parts."""

    @field_validator("warmup")
    @classmethod
    def _has_its_own(cls, value: float) -> float:
        if value:
            raise PydanticCustomError("warmup", "one_cycle warms up by itself (set peak_at and start_factor instead)")
        return value


class Plateau(_Schedule):
    """Multiplied by `factor` when the monitored metric stops improving."""

    kind: Literal["plateau"] = "plateau"
    """`plateau`"""
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


AnySchedule = (
    Constant
    | Linear
    | Cosine
    | CosineRestarts
    | Polynomial
    | WarmupStableDecay
    | StepDecay
    | MultiStep
    | Exponential
    | OneCycle
    | Plateau
)

_TYPES: dict[str, type[Strict]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "cosine_restarts": CosineRestarts,
    "polynomial": Polynomial,
    "warmup_stable_decay": WarmupStableDecay,
    "step": StepDecay,
    "multi_step": MultiStep,
    "exponential": Exponential,
    "one_cycle": OneCycle,
    "plateau": Plateau,
}

Schedule = Annotated[SerializeAsAny[AnySchedule], one_of(_TYPES)]
