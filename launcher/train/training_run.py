"""The objects that a rank trains with, and the progress of the run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from launcher.config.recipe import Recipe
from launcher.config.types import JsonObject
from launcher.distributed.heartbeat import Heartbeat
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.run_ledger import RankLedger
from launcher.distributed.stop_requests import StopMonitor
from launcher.storage.run_dir import RunDir
from launcher.train.batch_loader import BatchLoader
from launcher.train.checkpoint_saver import CheckpointSaver
from launcher.train.evaluation import Part
from launcher.train.memory_copy import MemoryCopies
from launcher.train.precision import LossScale
from launcher.train.sample_randomness import ModelRandomness
from launcher.train.step_metrics import StepMeter
from launcher.train.stragglers import Stragglers

if TYPE_CHECKING:
    from launcher.config.types import Plugin, ScheduleConfig
    from launcher.lr_schedules import Evaluation, Schedule
    from launcher.sinks import Sink
    from launcher.strategies import Engine
    from launcher.tasks import Task

_COUNTERS = (
    "step", "samples", "tokens", "seconds", "waited", "skipped", "skipped_in_a_row", "culprit", "overflows", "history",
    "evaluation_due",
    "spikes", "spikes_in_a_row", "recent", "left_out",
)  # fmt: skip

Result = tuple[int, float, float]
"""Number of a step, its loss and its gradient norm."""


@dataclass
class Progress:
    """Progress of a run over all its starts. A checkpoint contains it.

    `seconds`: training time; `waited`: the part of it spent waiting for data. `evaluation`: the last evaluation's
    metrics and step. `history`: each evaluation's step and watched metric, which is negated if higher is better.
    `skipped`: number of steps without an update, because the gradient was not
    finite; `culprit`: the first parameter that was not finite in the last series of such steps. `overflows`: number of
    steps that were repeated with a smaller loss scale. `spikes`: number of steps whose loss or gradient norm was far
    above its usual range; `recent`: the steps that this range is computed from. `left_out`: the steps without an update
    after training went back, in ascending order, of the whole run. `evaluation_due`: a stop has ended the evaluation of
    this step. `out_of_memory`: number of times that a micro-batch of this rank did not fit, since the start.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    evaluation: dict[str, float] = field(default_factory=dict)
    history: "list[Evaluation]" = field(default_factory=list)
    skipped: int = 0
    skipped_in_a_row: int = 0
    culprit: str = ""
    overflows: int = 0
    evaluation_due: bool = False
    spikes: int = 0
    spikes_in_a_row: int = 0
    recent: list[Result] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)
    out_of_memory: int = 0
    scale: LossScale = field(default_factory=LossScale)

    def state(self) -> JsonObject:
        """Return the part of the progress that a checkpoint contains."""
        return {**{name: getattr(self, name) for name in _COUNTERS}, "scale": [self.scale.value, self.scale.good]}

    @classmethod
    def of(cls, state: JsonObject, precision: str) -> "Progress":
        """Return the progress stored in the state of a checkpoint, which an earlier launcher may have written."""
        progress = cls(scale=LossScale.of(precision), evaluation=state.get("evaluation", {}))
        for name in state.keys() & set(_COUNTERS):
            setattr(progress, name, state[name])
        if "scale" in state and precision == "fp16":
            progress.scale = LossScale(*state["scale"])
        return progress


@dataclass
class Run:
    """A rank's part of a run.

    `batches` yields this rank's share of the global batches from `progress.step` to step `until`. This is the last of
    all `steps`, or the step at which frozen parameters begin to train. `data`: the digest of the prepared data.
    `meter`, `ledger`: of rank 0; None: speed and device are not measured, seconds are not recorded. `copies`: copies in
    memory; None: none are made. `stragglers`: of rank 0; None: ranks are not compared.
    """

    recipe: Recipe
    folder: RunDir
    process: ProcessGroup
    task: "Task"
    engine: "Engine"
    randomness: ModelRandomness
    batches: BatchLoader
    validation: Iterable[Part] | None
    schedule: "Schedule[ScheduleConfig]"
    steps: int
    until: int
    data: str
    progress: Progress
    sinks: "Sequence[Sink[Plugin]]"
    stop: StopMonitor
    saver: CheckpointSaver
    meter: StepMeter | None = None
    copies: MemoryCopies | None = None
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    ledger: RankLedger | None = None
    stragglers: Stragglers | None = None
