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
    """`warmup`: a fraction of the run's steps (below 1), or a number of steps, in which the rate climbs to `lr`."""

    warmup: Span = 0.0


class Constant(_Schedule):
    kind: Literal["constant"] = "constant"


class Linear(_Schedule):
    """From 1 after the warmup down to `floor` at the last step."""

    kind: Literal["linear"] = "linear"
    floor: Floor = 0.0


class Cosine(_Schedule):
    """Half a cosine from 1 down to `floor` (Loshchilov and Hutter, 2017)."""

    kind: Literal["cosine"] = "cosine"
    floor: Floor = 0.0


class CosineRestarts(_Schedule):
    """Half a cosine from 1 down to `floor`, again and again (Loshchilov and Hutter, 2017). `period`: of the first one,
    a fraction of the run or a number of steps; each is `factor` times as long as the one before."""

    kind: Literal["cosine_restarts"] = "cosine_restarts"
    period: Annotated[Span, Field(gt=0)]
    factor: float = Field(1.0, ge=1)
    floor: Floor = 0.0


class Polynomial(_Schedule):
    """From 1 after the warmup down to `floor`, by what is left of the run to the power of `power`."""

    kind: Literal["polynomial"] = "polynomial"
    power: float = Field(2.0, gt=0)
    floor: Floor = 0.0


class WarmupStableDecay(_Schedule):
    """Constant after the warmup; the last `decay` (a fraction) falls to `floor` in a line (Hu et al., 2024)."""

    kind: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    decay: float = Field(0.2, gt=0, le=1)
    floor: Floor = 0.0


class StepDecay(_Schedule):
    """Multiplied by `gamma` every `every` steps."""

    kind: Literal["step"] = "step"
    every: int = Field(gt=0)
    gamma: float = Field(0.1, gt=0, le=1)


class MultiStep(_Schedule):
    """Multiplied by `gamma` at each of the `milestones`: steps, or fractions of the run."""

    kind: Literal["multi_step"] = "multi_step"
    milestones: tuple[Annotated[Span, Field(gt=0)], ...] = Field(min_length=1)
    gamma: float = Field(0.1, gt=0, le=1)

    @field_validator("milestones")
    @classmethod
    def _one_after_the_other(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in pairwise(value)):
            raise PydanticCustomError("milestones", "should be in ascending order, each once")
        if value[0] < 1 <= value[-1]:
            raise PydanticCustomError("milestones", "should be all fractions of the run, or all steps")
        return value


class Exponential(_Schedule):
    """After the warmup multiplied by `gamma` in the course of `every` steps, a little at each."""

    kind: Literal["exponential"] = "exponential"
    gamma: float = Field(gt=0, le=1)
    every: int = Field(1, gt=0)


class OneCycle(_Schedule):
    """Up from `start_factor` to 1 at `peak_at` (a fraction of the run), and down to `end_factor` at the last step, in
    half cosines or lines (Smith and Topin, 2019)."""

    kind: Literal["one_cycle"] = "one_cycle"
    peak_at: float = Field(0.3, gt=0, lt=1)
    start_factor: Floor = 0.04
    end_factor: Floor = 4e-6
    anneal: Literal["cosine", "linear"] = "cosine"

    @field_validator("warmup")
    @classmethod
    def _has_its_own(cls, value: float) -> float:
        if value:
            raise PydanticCustomError("warmup", "one_cycle warms up by itself (set peak_at and start_factor instead)")
        return value


class Plateau(_Schedule):
    """Multiplied by `factor`, down to `floor`, where more than `patience` evaluations in a row were not better than the
    best one by `threshold` (relative). `cooldown`: evaluations after that which do not count."""

    kind: Literal["plateau"] = "plateau"
    factor: float = Field(0.1, gt=0, lt=1)
    patience: int = Field(3, ge=0)
    threshold: float = Field(1e-4, ge=0, lt=1)
    cooldown: int = Field(0, ge=0)
    floor: Floor = 0.0


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
