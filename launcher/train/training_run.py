"""What a rank trains with, and how far the run is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from launcher.config.recipe import Recipe
from launcher.config.types import JsonObject
from launcher.distributed.heartbeat import Heartbeat
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.stop_requests import StopMonitor
from launcher.storage.run_dir import RunDir
from launcher.train.data_loader import RankBatch
from launcher.train.evaluation import Part
from launcher.train.precision import LossScale
from launcher.train.sample_randomness import ModelRandomness

if TYPE_CHECKING:
    from launcher.config.types import Plugin, ScheduleConfig
    from launcher.lr_schedules import Evaluation, Schedule
    from launcher.sinks import Sink
    from launcher.strategies import Engine
    from launcher.tasks import Task

_COUNTERS = (
    "step", "samples", "tokens", "seconds", "waited", "skipped", "skipped_in_a_row", "culprit", "overflows", "history",
)  # fmt: skip


@dataclass
class Progress:
    """How far a run is, over all its starts; a checkpoint holds it.

    `seconds`: training time; `waited`: the part of it spent waiting for data. `evaluation`: the metrics of the last
    evaluation and its step. `history`: the steps of all evaluations, each with the watched metric, with its sign such
    that lower is better. `saved`: the step of the last checkpoint. `skipped`: steps without an update, since the
    gradient was not finite; `culprit`: the first parameter of the last series of these. `overflows`: steps that were
    repeated with a smaller loss scale.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    evaluation: dict[str, float] = field(default_factory=dict)
    history: "list[Evaluation]" = field(default_factory=list)
    saved: int = -1
    skipped: int = 0
    skipped_in_a_row: int = 0
    culprit: str = ""
    overflows: int = 0
    scale: LossScale = field(default_factory=LossScale)

    def state(self) -> JsonObject:
        """The part of it that a checkpoint holds."""
        return {**{name: getattr(self, name) for name in _COUNTERS}, "scale": [self.scale.value, self.scale.good]}

    @classmethod
    def of(cls, state: JsonObject, precision: str) -> "Progress":
        """The progress in the state of a checkpoint, of this or an earlier launcher."""
        progress = cls(saved=state["step"], scale=LossScale.of(precision))
        for name in state.keys() & set(_COUNTERS):
            setattr(progress, name, state[name])
        if "scale" in state and precision == "fp16":
            progress.scale = LossScale(*state["scale"])
        return progress


@dataclass
class Run:
    """A rank's part of a run.

    `batches` yields this rank's share of the global batches from `progress.step` on, up to step `until`: the last of
    all `steps`, or the one at which other parameters begin to train. `data`: the digest of the prepared data.
    """

    recipe: Recipe
    folder: RunDir
    process: ProcessGroup
    task: "Task"
    engine: "Engine"
    randomness: ModelRandomness
    batches: Iterable[RankBatch]
    validation: Iterable[Part] | None
    schedule: "Schedule[ScheduleConfig]"
    steps: int
    until: int
    data: str
    progress: Progress
    sinks: "Sequence[Sink[Plugin]]"
    stop: StopMonitor
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
