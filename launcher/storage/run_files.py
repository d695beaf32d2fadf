"""Types of the content of the files in a run folder, as this and earlier launchers wrote them.

The names of the files are in launcher.config.paths.
"""

import math
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from launcher.config.strict_json import Count, PlainName, Seconds, Stored, Time, Word, Wrong, shown
from launcher.config.types import JsonObject


def _numbers(values: JsonObject) -> JsonObject:
    """Check that every value is a number; it may be infinite or nan."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{shown(name)}: should be a number")
    return values


def _entry(value: list[object]) -> list[object]:
    match value:
        case [int() as step, int() | float()] if step >= 0 and not any(isinstance(part, bool) for part in value):
            return value
    raise ValueError("should be a step and a number")


def _result(value: list[object]) -> list[object]:
    match value:
        case [int() as step, int() | float() as loss, int() | float() as norm] if step >= 0:
            if math.isfinite(loss) and math.isfinite(norm) and not any(isinstance(part, bool) for part in value):
                return value
    raise ValueError("should be a step and two finite numbers")


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


RegressionTargets = Annotated[JsonObject, AfterValidator(_numbers)]


class WatchedMetric(Stored):
    """The metric that decides on the best checkpoint. Lower values are better."""

    metric: Word = ""
    value: Annotated[float, Field(allow_inf_nan=True)] = math.inf


class CheckpointState(Stored):
    """Content of a checkpoint's state.json: the progress of the run.

    `history`: step and watched value of each evaluation. `scale`: loss scale, and number of steps since it changed.
    `draws`: version of the dropout algorithm. `recent`: step, loss and gradient norm of the last steps. `left_out`: the
    steps without an update after a spike. `saving`: only of a copy in memory: the step of the checkpoint that was being
    written; 0: none was.
    """

    step: Count
    samples: Count = 0
    tokens: Count = 0
    seconds: Seconds = 0.0
    waited: Seconds = 0.0
    skipped: Count = 0
    skipped_in_a_row: Count = 0
    overflows: Count = 0
    culprit: str = ""
    history: list[Annotated[list[object], AfterValidator(_entry)]] = []
    scale: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=2, max_length=2)] = [1.0, 0]
    data: str = ""
    ranks: Count = 0
    strategy: str = ""
    evaluation: RegressionTargets = {}
    evaluation_due: bool = False
    watched: WatchedMetric = WatchedMetric()
    metric: str = ""
    enough: bool = False
    draws: int = 0
    spikes: Count = 0
    spikes_in_a_row: Count = 0
    recent: list[Annotated[list[object], AfterValidator(_result)]] = []
    left_out: list[Count] = []
    saving: Count = 0


class CheckpointFormat(Stored):
    """The part of a checkpoint's COMPLETE that every version of the launcher reads: the number of the format."""

    format: Count = 1


class CheckpointFiles(Stored):
    """Content of a checkpoint's COMPLETE: the size in bytes and the checksum of each file."""

    files: Annotated[dict[PlainName, Annotated[tuple[Count, str], BeforeValidator(_tuple)]], Field(min_length=1)]


class RollBack(Stored):
    """A spike after which training went back. Steps `first` to `step`, the spike, are left out from then on."""

    step: Annotated[Count, Field(ge=1)]
    first: Annotated[Count, Field(ge=1)]
    loss: float
    grad_norm: float


class RollBacks(Stored):
    """Content of roll_backs.json: the spikes after which training went back, in their order."""

    spikes: list[RollBack] = []


class TokenLimit(Stored):
    """Content of max_tokens.json: the tokens of the largest micro-batch that may fit. `layout`: ranks, strategy and
    `train.max_tokens` for which this holds."""

    max_tokens: Annotated[Count, Field(ge=1)]
    layout: str


class PlanSummary(Stored):
    """The part of plan.json that a list of runs shows. Every version of the launcher writes it.

    `command`: starts the run again.
    """

    steps: Count | None = None
    command: Word = ""


class Environment(Stored):
    """Content of environment.json."""

    python: Word = ""
    git: Word | None = None
    versions: dict[Word, Word] = {}


def _no_option(text: str) -> str:
    if text.startswith("-"):
        raise ValueError("begins with a dash")
    return text


class JobEvent(Stored):
    """A line of jobs.jsonl. The keys depend on the event.

    Job names and ids become parts of paths and arguments of a scheduler's commands, and are therefore restricted.
    """

    event: Word
    job: Annotated[PlainName, AfterValidator(_no_option)]
    time: Time = 0.0
    cluster: Word = ""
    scheduler: Word = ""
    options: JsonObject | None = None
    script: Word = ""
    id: Annotated[Word, AfterValidator(_no_option)] = ""
    slurm: Annotated[Word, AfterValidator(_no_option)] = ""  # of earlier launchers
    start: Count = 0
    nodes: list[Word] = []
    ranks: Count = 0
    step: Count | None = None
    code: int | None = None
    why: Word = ""
    excluded: list[Word] = []
    error: Word = ""
    rank: Count | None = None
    how: Word = ""
    attempt: Count = 0  # of `restarted`
    seconds: Seconds = 0.0  # of `resumed` and `hang`
    next: Annotated[Word, AfterValidator(_no_option)] = ""
    stage: Word = ""
    action: Word = ""


def check_metrics(record: JsonObject) -> None:
    """Check a record of metrics.jsonl, in which null stands for a number that is not finite. Raises Wrong."""
    if "step" not in record:
        raise Wrong("step: missing")
    for name, value in record.items():
        if name == "step":
            good, what = type(value) is int and value >= 0, "a whole number"
        elif name == "data":
            good, what = type(value) is str, "a text"
        else:
            finite = type(value) is float and math.isfinite(value)
            good, what = value is None or type(value) is int or finite, "a number"
        if not good:
            raise Wrong(f"{shown(name)}: should be {what}")
