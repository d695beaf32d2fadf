"""The recipe: what to train. Its keys are declared here and in the Configs of plug-ins."""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from pydantic_core import PydanticCustomError

from launcher.config.base_model import Strict, matching, one_of
from launcher.config.kinds import plugin
from launcher.config.model import ModelConfig
from launcher.config.trust import TrustRemoteCode
from launcher.config.types import JsonObject, OptimizerConfig, Plugin, ScheduleConfig, StrategyConfig, TaskConfig

Model = Annotated[SerializeAsAny[ModelConfig], plugin("models", ModelConfig)]
Source = Annotated[SerializeAsAny[Plugin], plugin("data")]
Task = Annotated[SerializeAsAny[TaskConfig], plugin("tasks", TaskConfig)]
Strategy = Annotated[SerializeAsAny[StrategyConfig], plugin("strategies", StrategyConfig)]
Optimizer = Annotated[SerializeAsAny[OptimizerConfig], plugin("optimizers", OptimizerConfig)]
Schedule = Annotated[SerializeAsAny[ScheduleConfig], plugin("lr_schedules", ScheduleConfig)]
Sink = Annotated[SerializeAsAny[Plugin], plugin("sinks")]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration: str) -> int:
    """Convert '90s', '10m', '2h' or '1d' to seconds. Raises ValueError."""
    match = re.fullmatch(r"([1-9]\d*)([smhd])", duration)
    if not match:
        raise ValueError(f"{duration!r} is no duration (such as 90s, 10m, 2h, 1d)")
    return int(match[1]) * _UNITS[match[2]]


def _interval(value: object) -> object:
    if isinstance(value, str):
        seconds(value)
    elif type(value) is not int or value < 1:
        raise PydanticCustomError("interval", "should be steps, or a time (such as 90s, 10m, 2h, 1d)")
    return value


StepsOrTime = Annotated[Annotated[int, Field(gt=0)] | str, BeforeValidator(_interval)]


class TrainTokenizer(Strict):
    """A tokenizer trained on the training data. The same data and keys give the same tokenizer."""

    kind: Literal["train"] = "train"
    """`train`: train a tokenizer."""
    algorithm: Literal["wordpiece", "bpe", "unigram"] = "wordpiece"
    """Algorithm of the tokenizer."""
    vocab_size: int = Field(gt=10, le=10_000_000)
    """Maximum number of tokens, special tokens included. A small sample gives fewer."""
    lowercase: bool = True
    """Lower-case texts first."""
    min_frequency: int = Field(2, ge=1)
    """Minimum number of occurrences for a merge (bpe, wordpiece) or for a candidate piece (unigram)."""
    unicode: Literal["none", "nfc", "nfd", "nfkc", "nfkd"] | None = None
    """Unicode normal form of texts. Default: none (wordpiece, lower-case bpe), nfc (bpe) or nfkc (unigram)."""
    strip_accents: bool | None = None
    """Remove accents. Default: the value of `lowercase`, as in BERT; false for bpe."""
    sample: int | None = Field(1_000_000, gt=0)
    """Maximum number of training documents to train from; null: all."""


class PretrainedTokenizer(Strict):
    """A tokenizer of the Hugging Face hub, or of a folder that transformers can load."""

    kind: Literal["pretrained"] = "pretrained"
    """`pretrained`: load a tokenizer."""
    name: str
    """Name on the hub, or path of a folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub. Default: its main branch."""
    trust_remote_code: TrustRemoteCode = False
    """Run code that the tokenizer's folder brings, with your permissions."""

    @property
    def trusted_source(self) -> str | None:
        """Name of the folder or repository whose code the recipe allows to run; None: no such code is run."""
        return self.name if self.trust_remote_code else None


Tokenizer = TrainTokenizer | PretrainedTokenizer


class Fraction(Strict):
    """A share of the training documents, held out for validation. A hash of the content selects them."""

    fraction: float = Field(gt=0, lt=1)
    """Share of the documents, between 0 and 1."""
    stratify: Literal["none", "auto"] = "none"
    """`auto`: hold out the same share of each label, if rows have one label; `none`: ignore labels."""


def _validation(value: object) -> object:
    if isinstance(value, dict) and "kind" not in value:
        return Fraction.model_validate(value)
    return value if value is None or isinstance(value, Fraction) else plugin("data").func(value)  # type: ignore[call-arg]


class Data(Strict):
    """Where samples come from."""

    train: Source
    """Source of the training rows."""
    validation: Annotated[SerializeAsAny[Fraction | Plugin] | None, BeforeValidator(_validation)] = None
    """Source of the validation rows, or `{fraction: 0.02}` of the training rows. Default: no evaluation."""
    max_length: int = Field(128, gt=2)
    """Maximum number of tokens of a sample, special tokens included."""
    deduplicate: bool = False
    """Keep only the first of several training rows with equal content."""


def _checkpointing(value: object) -> object:
    if not (isinstance(value, str) and re.fullmatch(r"none|layers|every [1-9]\d*", value)):
        raise PydanticCustomError("activation_checkpointing", "should be none, layers, or every N (such as every 2)")
    return value


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
    activation_checkpointing: Annotated[str, BeforeValidator(_checkpointing)] = "none"
    """Layers that recompute their activations in the backward pass: `none`, `layers` (all) or `every N`."""
    abort_after: int = Field(10, gt=0)
    """Number of consecutive steps with a gradient that is not finite after which the run fails."""
    workers: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    """Processes of a rank that load data, or `auto`."""
    deterministic: bool = False
    """Use deterministic kernels only, so that a resume on the same GPUs and layout is exact to the last bit. Slower."""
    strict_contract: bool = False
    """Refuse a model whose training would depend on the number of ranks or on micro-batches."""

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.steps is None) == (self.epochs is None):
            raise PydanticCustomError("length", "needs either steps or epochs, and not both")
        return self

    @property
    def checkpointed_every(self) -> int:
        """Distance between layers that recompute their activations: 1 means every layer, 0 means none."""
        words = self.activation_checkpointing
        return {"none": 0, "layers": 1}[words] if " " not in words else int(words.split()[1])


_TOKENIZERS: dict[str, type[Strict]] = {"train": TrainTokenizer, "pretrained": PretrainedTokenizer}


class Checkpoint(Strict):
    """When checkpoints are saved, and how many are kept. One is also saved at the end and at a requested stop."""

    every: StepsOrTime | None = None
    """Interval between checkpoints: steps, or a time such as 10m. Default: no interval."""
    keep: int = Field(2, ge=1)
    """Number of newest checkpoints to keep. The best checkpoint is kept in addition."""


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
    tokenizer: Annotated[SerializeAsAny[Tokenizer] | None, one_of(_TOKENIZERS)] = None
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


def trajectory(recipe: Recipe) -> JsonObject:
    """Return the keys of a recipe that decide its training trajectory, in the resolved form.

    The result maps dotted keys to values. It leaves out the keys of PERFORMANCE; `evaluate` stays if evaluations affect
    training.
    """

    def flatten(value: object, path: str) -> JsonObject:
        if not (isinstance(value, dict) and value):
            return {path.removeprefix("."): value}
        return {k: v for key, item in value.items() for k, v in flatten(item, f"{path}.{key}").items()}

    flat = flatten(recipe.model_dump(mode="json"), "")
    steered = recipe.schedule.uses_evaluations or recipe.evaluate.patience is not None
    free = [key for key in PERFORMANCE if not (steered and key == "evaluate")]  # evaluations affect training
    free += ["evaluate.save_best"]
    for key in ("task.samples", "task.task.samples"):
        if flat.get(key) == "packed":  # packing affects speed only
            flat[key] = "documents"
    return {k: v for k, v in flat.items() if not any(k == p or k.startswith(p + ".") for p in free)}
