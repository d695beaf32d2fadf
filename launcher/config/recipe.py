"""The recipe: what to train. Every key that a recipe may hold is declared here or in a plug-in's Config."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from pydantic_core import PydanticCustomError

from launcher.config import kinds
from launcher.config.kinds import TrustRemoteCode, plugin
from launcher.config.types import (
    OptimizerConfig,
    Plugin,
    ScheduleConfig,
    StrategyConfig,
    Strict,
    TaskConfig,
    matching,
    one_of,
)

Model = Annotated[SerializeAsAny[Plugin], plugin("models")]
Source = Annotated[SerializeAsAny[Plugin], plugin("data")]
Task = Annotated[SerializeAsAny[TaskConfig], plugin("tasks", TaskConfig)]
Strategy = Annotated[SerializeAsAny[StrategyConfig], plugin("strategies", StrategyConfig)]
Optimizer = Annotated[SerializeAsAny[OptimizerConfig], plugin("optimizers", OptimizerConfig)]
Schedule = Annotated[SerializeAsAny[ScheduleConfig], plugin("lr_schedules", ScheduleConfig)]
Sink = Annotated[SerializeAsAny[Plugin], plugin("sinks")]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration: str) -> int:
    """'90s', '10m', '2h' or '1d' in seconds. Raises ValueError for anything else."""
    match = re.fullmatch(r"([1-9]\d*)([smhd])", duration)
    if not match:
        raise ValueError(f"{duration!r} is no duration (such as 90s, 10m, 2h, 1d)")
    return int(match[1]) * _UNITS[match[2]]


def _interval(value: Any) -> Any:
    if isinstance(value, str):
        seconds(value)
    elif type(value) is not int or value < 1:
        raise PydanticCustomError("interval", "should be steps, or a time (such as 90s, 10m, 2h, 1d)")
    return value


StepsOrTime = Annotated[Annotated[int, Field(gt=0)] | str, BeforeValidator(_interval)]


class TrainTokenizer(Strict):
    """A tokenizer trained from the training side of the data, alike each time. `vocab_size`: tokens with the special
    ones, at the most: a small sample gives fewer. `min_frequency`: what is seen less often is not merged (bpe,
    wordpiece), nor proposed (unigram). `unicode`: the form that texts are brought to first; by itself none (wordpiece,
    lower-case bpe), nfc (bpe) or nfkc (unigram). `strip_accents`: by itself with `lowercase`, as BERT does, but not in
    bpe. `sample`: documents of the training side that it is trained from, at the most."""

    kind: Literal["train"] = "train"
    algorithm: Literal["wordpiece", "bpe", "unigram"] = "wordpiece"
    vocab_size: int = Field(gt=10, le=10_000_000)
    lowercase: bool = True
    min_frequency: int = Field(2, ge=1)
    unicode: Literal["none", "nfc", "nfd", "nfkc", "nfkd"] | None = None
    strip_accents: bool | None = None
    sample: int | None = Field(1_000_000, gt=0)


class PretrainedTokenizer(Strict):
    """A tokenizer of the hub, or of a folder that transformers can load. `revision`: a branch, tag or commit of the
    hub. `trust_remote_code`: run the code that the folder brings, as you."""

    kind: Literal["pretrained"] = "pretrained"
    name: str
    revision: str | None = None
    trust_remote_code: TrustRemoteCode = False


Tokenizer = TrainTokenizer | PretrainedTokenizer


class Fraction(Strict):
    """The share of the documents held out for validation, chosen by a hash of their content. `stratify`: auto holds out
    that share of each label where rows have one label; none, the default, looks at no label."""

    fraction: float = Field(gt=0, lt=1)
    stratify: Literal["none", "auto"] = "none"


def _validation(value: Any) -> Any:
    if isinstance(value, dict) and "kind" not in value:
        return Fraction.model_validate(value)
    return value if value is None or isinstance(value, Fraction) else plugin("data").func(value)  # type: ignore[call-arg]


class Data(Strict):
    """`deduplicate`: of training rows with equal content only the first is kept."""

    train: Source
    validation: Annotated[SerializeAsAny[Fraction | Plugin] | None, BeforeValidator(_validation)] = None
    max_length: int = Field(128, gt=2)
    deduplicate: bool = False


def _checkpointing(value: Any) -> Any:
    if not (isinstance(value, str) and re.fullmatch(r"none|layers|every [1-9]\d*", value)):
        raise PydanticCustomError("activation_checkpointing", "should be none, layers, or every N (such as every 2)")
    return value


class Train(Strict):
    """`global_batch`: samples an optimiser step sees. `max_tokens`: padded tokens of a rank's micro-batch, which
    decides memory only. `compile`: torch.compile, layer by layer. `activation_checkpointing`: the layers whose
    activations are computed again in the backward. `abort_after`: steps in a row with a gradient that is not finite,
    after which the run fails. `loss_scale`: fp16 needs the dynamic one. `strict_contract`: refuse a model for
    which the run would depend on ranks and micro-batches."""

    global_batch: int = Field(gt=0, le=2**20)
    steps: int | None = Field(None, gt=0)
    epochs: float | None = Field(None, gt=0, le=1e9)
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    loss_scale: Literal["auto", "none"] = "auto"
    max_tokens: int | None = Field(None, gt=0)
    compile: bool = False
    activation_checkpointing: Annotated[str, BeforeValidator(_checkpointing)] = "none"
    abort_after: int = Field(10, gt=0)
    workers: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    strict_contract: bool = False

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.steps is None) == (self.epochs is None):
            raise PydanticCustomError("length", "needs either steps or epochs, and not both")
        return self

    @property
    def checkpointed_every(self) -> int:
        """Of how many layers one has its activations checkpointed; 0: none has."""
        words = self.activation_checkpointing
        return {"none": 0, "layers": 1}[words] if " " not in words else int(words.split()[1])


_TOKENIZERS: dict[str, type[Strict]] = {"train": TrainTokenizer, "pretrained": PretrainedTokenizer}


class Checkpoint(Strict):
    """`every`: steps, or a time such as 10m; one is also made at the end and when told to stop. `keep`: the newest so
    many."""

    every: StepsOrTime | None = None
    keep: int = Field(2, ge=1)


class Evaluate(Strict):
    """`every`: steps; one evaluation is also made at the end, and before the first step where `at_start`. `metric`: by
    which the best checkpoint is known, and which a plateau schedule and early stopping watch; `direction`: whether less
    or more of it is better (the task knows). `patience`: after so many evaluations in a row without a better one the
    run ends; `min_delta`: by how much it has to be better. `save_best`: a checkpoint follows an evaluation that is the
    best so far."""

    every: int | None = Field(None, gt=0)
    at_start: bool = False
    metric: str = "loss"
    direction: Literal["min", "max"] | None = None
    patience: int | None = Field(None, gt=0)
    min_delta: float = Field(0.0, ge=0)
    save_best: bool = False


_NAME = matching(
    r"[A-Za-z0-9][A-Za-z0-9._-]*",
    "should begin with a letter or digit, and have only letters, digits, '.', '_' and '-'",
)


class Recipe(Strict):
    """`seeds`: how many times `launcher run` trains it, each with the next seed."""

    name: Annotated[str, _NAME] = Field(max_length=150)
    seed: int = Field(0, ge=0, lt=2**63)
    seeds: int = Field(1, ge=1)
    model: Model
    tokenizer: Annotated[SerializeAsAny[Tokenizer] | None, one_of(_TOKENIZERS)] = None
    data: Data
    task: Task
    train: Train
    optimizer: Optimizer
    schedule: Schedule = "constant"  # type: ignore[assignment]
    strategy: Strategy = "ddp"  # type: ignore[assignment]
    checkpoint: Checkpoint = Checkpoint()
    evaluate: Evaluate = Evaluate()
    sinks: list[Sink] = ["console", "jsonl"]  # type: ignore[list-item]

    @property
    def packed(self) -> bool:
        """Whether several samples share a row."""
        return self.inner_task.packs_rows

    @property
    def inner_task(self) -> TaskConfig:
        """The task that says what samples are: of one that holds another, the one held."""
        return self.task.held

    @property
    def tensor_parallel(self) -> int:
        """How many ranks share each sample: decided by the strategies that can."""
        return self.strategy.tensor_degree


# What may change between a start and a resume: how fast a run goes and what it tells, never where it goes.
PERFORMANCE = (
    "seeds", "strategy", "checkpoint", "evaluate", "sinks", "train.max_tokens", "train.workers", "train.compile",
    "train.activation_checkpointing", "train.abort_after", "train.strict_contract",
)  # fmt: skip


def trajectory(recipe: dict[str, Any]) -> dict[str, Any]:
    """A resolved recipe as a flat map of dotted keys, without those of PERFORMANCE."""

    def flatten(value: Any, path: str) -> dict[str, Any]:
        if not (isinstance(value, dict) and value):
            return {path.removeprefix("."): value}
        return {k: v for key, item in value.items() for k, v in flatten(item, f"{path}.{key}").items()}

    flat = flatten(recipe, "")
    schedule = kinds.module("lr_schedules", recipe["schedule"]["kind"]).Config
    steered = schedule.uses_evaluations or recipe["evaluate"].get("patience") is not None
    free = [key for key in PERFORMANCE if not (steered and key == "evaluate")]  # then evaluations decide what is learnt
    free += ["evaluate.save_best"]
    for key in ("task.samples", "task.task.samples"):
        if flat.get(key) == "packed":  # which documents share a row is a matter of speed
            flat[key] = "documents"
    return {k: v for k, v in flat.items() if not any(k == p or k.startswith(p + ".") for p in free)}
