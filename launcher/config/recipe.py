"""The recipe: what to train. Its keys are declared here and in the Configs of plug-ins."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from launcher.config.base_model import Strict, matching
from launcher.config.kinds import plugin
from launcher.config.model import ModelConfig
from launcher.config.tokenizer import Tokenizer
from launcher.config.training import Checkpoint, Evaluate, Train
from launcher.config.types import JsonObject, OptimizerConfig, Plugin, ScheduleConfig, StrategyConfig, TaskConfig

Model = Annotated[SerializeAsAny[ModelConfig], plugin("models", ModelConfig)]
Source = Annotated[SerializeAsAny[Plugin], plugin("data")]
Task = Annotated[SerializeAsAny[TaskConfig], plugin("tasks", TaskConfig)]
Strategy = Annotated[SerializeAsAny[StrategyConfig], plugin("strategies", StrategyConfig)]
Optimizer = Annotated[SerializeAsAny[OptimizerConfig], plugin("optimizers", OptimizerConfig)]
Schedule = Annotated[SerializeAsAny[ScheduleConfig], plugin("lr_schedules", ScheduleConfig)]
Sink = Annotated[SerializeAsAny[Plugin], plugin("sinks")]


class Share(Strict):
    """A share of the training documents, held out. A hash of the content selects them."""

    fraction: float = Field(gt=0, lt=1)
    """Share of the documents, between 0 and 1."""


class Fraction(Share):
    """A share of the training documents, held out for validation. A hash of the content selects them."""

    stratify: Literal["none", "auto"] = "none"
    """`auto`: hold out the same share of each label, if rows have one label; `none`: ignore labels."""


class Fold(Strict):
    """One of several parts of the training documents, held out for validation. A hash of the content selects them."""

    fold: int = Field(ge=0)
    """Number of the part, from 0."""
    of: int = Field(ge=2)
    """Number of parts."""

    @field_validator("of")
    @classmethod
    def _has_fold(cls, of: int, info: ValidationInfo) -> int:
        if info.data.get("fold", 0) >= of:
            raise PydanticCustomError("fold", "there is no fold {fold} (0 to {last})", {**info.data, "last": of - 1})
        return of


def _validation(value: object) -> object:
    if isinstance(value, dict) and "kind" not in value:
        return (Fold if {"fold", "of"} & value.keys() else Fraction).model_validate(value)
    return value if value is None or isinstance(value, Fraction | Fold) else plugin("data").func(value)  # type: ignore[call-arg]


def _test(value: object) -> object:
    if isinstance(value, dict) and "kind" not in value:
        return Share.model_validate(value)
    return value if value is None or isinstance(value, Share) else plugin("data").func(value)  # type: ignore[call-arg]


class Data(Strict):
    """Where samples come from."""

    train: Source
    """Source of the training rows."""
    validation: Annotated[
        SerializeAsAny[Fraction | Fold | Plugin] | None,
        BeforeValidator(_validation, json_schema_input_type=Fraction | Fold | Source | None),
    ] = None
    """Source of the validation rows, or `{fraction: 0.02}` of the training rows, or one of several folds of them:
    `{fold: 0, of: 5}`. Default: no evaluation."""
    test: Annotated[
        SerializeAsAny[Share | Plugin] | None,
        BeforeValidator(_test, json_schema_input_type=Share | Source | None),
    ] = None
    """Source of the test rows, or `{fraction: 0.1}` of the training rows. Only `launcher evaluate RUN --split test`
    reads them. Default: no test set."""
    folds: int | None = Field(None, ge=2)
    """Number of folds of a cross-validation: `launcher run` trains a run for each, which validates it."""
    max_length: int = Field(128, gt=2)
    """Maximum number of tokens of a sample, special tokens included."""
    deduplicate: bool = False
    """Keep only the first of several training rows with equal content."""


_NAME = matching(
    r"[A-Za-z0-9][A-Za-z0-9._-]*",
    "should begin with a letter or digit, and have only letters, digits, '.', '_' and '-'",
)


class Recipe(Strict):
    """What to train."""

    name: Annotated[str, _NAME] = Field(max_length=150)
    """Name of the run. Its folder is runs/<name>."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of all random draws: initial weights, order of samples, masks, dropout."""
    seeds: int = Field(1, ge=1)
    """Number of runs that `launcher run` trains, each with the next seed."""
    model: Model
    """Model to train."""
    tokenizer: Tokenizer = None
    """Tokenizer of the samples. Default: the model's own."""
    data: Data
    """Sources of the samples."""
    task: Task
    """What the model learns."""
    train: Train
    """Global batch, length and precision of the run."""
    optimizer: Optimizer
    """Optimiser of the weights."""
    schedule: Schedule = "constant"  # type: ignore[assignment]
    """Learning-rate schedule."""
    strategy: Strategy = "ddp"  # type: ignore[assignment]
    """How the model and its batches are distributed over ranks."""
    checkpoint: Checkpoint = Checkpoint()
    """When checkpoints are saved, and how many are kept."""
    evaluate: Evaluate = Evaluate()
    """When evaluations run, and how their results are used."""
    sinks: list[Sink] = ["console", "jsonl"]  # type: ignore[list-item]
    """Where metrics go."""

    @property
    def packed(self) -> bool:
        """Whether several samples share a row."""
        return self.inner_task.packs_rows

    @property
    def inner_task(self) -> TaskConfig:
        """The task that defines the samples: `task` itself, or the inner task if `task` wraps another."""
        return self.task.held

    @property
    def tensor_parallel(self) -> int:
        """Number of ranks that share each sample."""
        return self.strategy.tensor_degree


# Keys that may change between a start and a resume: they affect speed and output, never what is learnt.
PERFORMANCE = (
    "seeds", "strategy", "checkpoint", "evaluate", "sinks", "train.max_tokens", "train.padding_free", "train.workers",
    "train.compile", "train.activation_checkpointing", "train.abort_after", "train.deterministic",
    "train.strict_contract",
)  # fmt: skip

_UNUSED_SPIKE = {"tell": ("train.spike",), "skip": ("train.spike.leave_out",), "roll_back": ()}
"""Keys of spikes that affect nothing, by `train.on_spike`."""


def flatten(value: object, path: str = "") -> JsonObject:
    """Return the values of nested maps by their dotted keys. `path`: of the value itself, with a dot before it."""
    if not (isinstance(value, dict) and value):
        return {path.removeprefix("."): value}
    return {k: v for key, item in value.items() for k, v in flatten(item, f"{path}.{key}").items()}


def trajectory(recipe: Recipe) -> JsonObject:
    """Return the keys of a recipe that decide its training trajectory, in the resolved form.

    The result maps dotted keys to values. It leaves out the keys of PERFORMANCE; `evaluate` stays if evaluations affect
    training, and `train.spike` if a spike does.
    """

    flat = flatten(recipe.model_dump(mode="json"))
    steered = recipe.schedule.uses_evaluations or recipe.evaluate.patience is not None
    free = [key for key in PERFORMANCE if not (steered and key == "evaluate")]  # evaluations affect training
    free += ["evaluate.save_best", *_UNUSED_SPIKE[recipe.train.on_spike]]
    if not isinstance(recipe.data.test, Share):  # else it leaves the training rows as they are
        free.append("data.test")
    for key in ("task.samples", "task.task.samples"):
        if flat.get(key) == "packed":  # packing affects speed only
            flat[key] = "documents"
    return {k: v for k, v in flat.items() if not any(k == p or k.startswith(p + ".") for p in free)}
