"""The sections of a recipe on the steps of a run, its checkpoints and its evaluations."""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from launcher.config.base_model import Strict

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration: str) -> int:
    """Convert '90s', '10m', '2h' or '1d' to seconds. Raises ValueError."""
    match = re.fullmatch(r"([1-9]\d*)([smhd])", duration)
    if not match:
        raise ValueError(f"{duration!r} is no duration (such as 90s, 10m, 2h, 1d)")
    return int(match[1]) * _UNITS[match[2]]


AUTO, CONTINUOUS = "auto", "continuous"
"""Intervals between checkpoints that are no duration."""


def _interval(value: object) -> object:
    what = "should be steps, a time (such as 90s, 10m, 2h, 1d), auto or continuous"
    if isinstance(value, str):
        try:
            known = value in (AUTO, CONTINUOUS) or seconds(value) > 0
        except ValueError:
            known, what = False, f"{value!r} is no interval: {what}"
    else:
        known = type(value) is int and value > 0
    if not known:
        raise PydanticCustomError("interval", "{what}", {"what": what})
    return value


def _every_steps(value: object) -> object:
    """Return the number in `every N` or `every N steps`, or the value itself."""
    match = re.fullmatch(r"every ([1-9]\d*)( steps?)?", value) if isinstance(value, str) else None
    if match:
        return int(match[1])
    if type(value) is not int or value < 1:
        raise PydanticCustomError("steps", "should be a number of steps (such as 10, or every 10 steps)")
    return value


_Steps = Annotated[int, Field(gt=0)]
_StepsWritten = Annotated[str, Field(pattern=r"^every [1-9][0-9]*( steps?)?$")]
_IntervalWritten = Annotated[str, Field(pattern=r"^(auto|continuous|[1-9][0-9]*[smhd])$")]
StepsOrTime = Annotated[_Steps | str, BeforeValidator(_interval, json_schema_input_type=_Steps | _IntervalWritten)]


def _checkpointing(value: object) -> object:
    if not (isinstance(value, str) and re.fullmatch(r"none|layers|every [1-9]\d*", value)):
        raise PydanticCustomError("activation_checkpointing", "should be none, layers, or every N (such as every 2)")
    return value


_CheckpointedWritten = Literal["none", "layers"] | Annotated[str, Field(pattern=r"^every [1-9][0-9]*$")]


class Spike(Strict):
    """Which steps are spikes: their loss or gradient norm exceeds median + factor x (95th percentile - median) of the
    steps before."""

    history: int = Field(128, ge=16, le=4096)
    """Steps from which the usual range is computed. No step is a spike before a quarter of them is known."""
    factor: float = Field(6.0, gt=0, le=1e6)
    """Distance of the limit from the median, relative to that of the 95th percentile."""
    leave_out: int = Field(10, ge=1)
    """Steps that `on_spike: roll_back` leaves out: the spike, and those before it."""


class Train(Strict):
    """The global batch, the length of the run, and how a step is computed."""

    global_batch: int = Field(gt=0, le=2**20)
    """Samples of an optimiser step, over all ranks."""
    steps: int | None = Field(None, gt=0)
    """Optimiser steps of the run. Exactly one of `steps` and `epochs` is needed."""
    epochs: float | None = Field(None, gt=0, le=1e9)
    """Passes over the training samples. Exactly one of `steps` and `epochs` is needed."""
    precision: Literal["fp32", "tf32", "bf16", "fp16", "fp64"] = "fp32"
    """Number format of the computation. bf16 and fp16 use autocast. tf32 is fp32 whose matrix products and convolutions
    use TF32 on GPUs that have it; fp32 never does."""
    loss_scale: Literal["auto", "none"] = "auto"
    """`auto`: dynamic loss scale for fp16; `none`: no loss scale."""
    max_tokens: int | None = Field(None, gt=0)
    """Maximum number of tokens of a rank's micro-batch, padding included. It affects memory and speed only. Default: by
    the length of the samples."""
    padding_free: Literal["auto"] | bool = "auto"
    """Compute samples of different lengths side by side in one row, without padding. It affects memory and speed only.
    `auto`: if the model's outputs stay the same and, on a GPU, its attention has a kernel for such rows; `true`: refuse
    a model or task whose outputs do not."""
    compile: bool = False
    """Compile the model layer by layer with torch.compile."""
    activation_checkpointing: Annotated[
        str, BeforeValidator(_checkpointing, json_schema_input_type=_CheckpointedWritten)
    ] = "none"
    """Layers that recompute their activations in the backward pass: `none`, `layers` (all) or `every N`."""
    abort_after: int = Field(10, gt=0)
    """Number of consecutive steps with a gradient that is not finite, or of consecutive spikes under `skip` or
    `roll_back`, after which the run fails."""
    on_spike: Literal["tell", "skip", "roll_back"] = "tell"
    """What follows when loss or gradient norm is far above its usual range. `tell`: a warning; `skip`: the step updates
    nothing; `roll_back`: training goes on from a checkpoint, and leaves out the spike and the steps before it."""
    spike: Spike = Spike()
    """Which steps are spikes, and which are left out."""
    workers: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    """Processes of a rank that load data, or `auto`."""
    deterministic: bool = False
    """Use deterministic kernels only, so that a resume on the same GPUs and layout is exact to the last bit. Slower."""
    strict_contract: bool = False
    """Refuse a model whose training would depend on the number of ranks or on micro-batches."""

    @field_validator("epochs")
    @classmethod
    def _not_both(cls, value: float | None, known: ValidationInfo) -> float | None:
        if value is not None and known.data.get("steps") is not None:
            raise PydanticCustomError("length", "train.steps is given too (take one out, such as train.steps: null)")
        return value

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if self.steps is None and self.epochs is None:
            raise PydanticCustomError("length", "needs either steps or epochs")
        return self

    @property
    def checkpointed_every(self) -> int:
        """Distance between layers that recompute their activations: 1 means every layer, 0 means none."""
        words = self.activation_checkpointing
        return {"none": 0, "layers": 1}[words] if " " not in words else int(words.split()[1])


class Checkpoint(Strict):
    """When checkpoints are saved, and how many are kept. One is also saved at the end and at a requested stop."""

    every: StepsOrTime | None = None
    """Interval between checkpoints: steps, or a time such as 10m. `auto`: the interval that loses the least time to
    saves and failures, from the measured cost of a save and the cluster's hours_between_failures. `continuous`: the
    next save begins as soon as the last one is complete. Default: no interval."""
    mode: Literal["async", "sync"] = "async"
    """`async`: training waits only while the state is copied to host memory, and a thread writes it. `sync`: training
    waits until the checkpoint is complete."""
    keep: int = Field(2, ge=1)
    """Number of newest checkpoints to keep. The best checkpoint is kept in addition."""
    keep_every: int | None = Field(None, gt=0)
    """Keep every checkpoint whose step is a multiple of this, in addition. Default: none."""
    memory: Annotated[_Steps, BeforeValidator(_every_steps, json_schema_input_type=_Steps | _StepsWritten)] | None = (
        None
    )
    """Steps between copies of the state in the memory of the nodes, from which a restart resumes when a rank has died.
    Default: no copies."""

    @property
    def interval(self) -> int | None:
        """Seconds between checkpoints; None: the interval is no duration."""
        fixed = isinstance(self.every, str) and self.every not in (AUTO, CONTINUOUS)
        return seconds(str(self.every)) if fixed else None


class Evaluate(Strict):
    """When evaluations run, and how their results are used. An evaluation also runs at the end."""

    every: int | None = Field(None, gt=0)
    """Steps between evaluations. Default: at the end only."""
    at_start: bool = False
    """Evaluate before the first step too."""
    metric: str = "loss"
    """Metric that ranks checkpoints, and that early stopping and a plateau schedule monitor."""
    direction: Literal["min", "max"] | None = None
    """Whether a smaller (min) or larger (max) metric is better. Default: as the task defines it."""
    patience: int | None = Field(None, gt=0)
    """Consecutive evaluations without improvement after which the run ends. Default: no early stopping."""
    min_delta: float = Field(0.0, ge=0)
    """Minimum change of the metric that counts as an improvement."""
    save_best: bool = False
    """Save a checkpoint after each evaluation that is the best so far."""
