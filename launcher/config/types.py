"""The base of every configuration type: frozen, and a key it does not know is refused with a hint."""

import difflib
import re
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from launcher.config import messages, strict_numbers


def hint(word: str, known: Iterable[str]) -> str:
    """'did you mean x?' where something close exists, else the list of what there is."""
    names = sorted(known)
    part = [name for name in names if f"_{word}_" in f"_{name}_"][:3]
    almost, close = (difflib.get_close_matches(word, names, n=1, cutoff=cutoff) for cutoff in (0.85, 0.6))
    found = almost or part or close
    return f"did you mean {' or '.join(found)}?" if found else f"there are: {', '.join(names)}"


class Strict(BaseModel):
    """Frozen; unknown keys are told beside all other mistakes of the same map, not instead of them. Numbers are strict
    (see launcher.config.strict_numbers)."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def _below(cls, key: str) -> str:
        """Where a key of that name is, one level below; empty: nowhere."""
        parts = ((name, field.annotation) for name, field in cls.model_fields.items())
        found = [
            n for n, kind in parts if isinstance(kind, type) and issubclass(kind, Strict) and key in kind.model_fields
        ]
        return f"did you mean {found[0]}.{key}?" if found else ""

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any, handler: ModelWrapValidatorHandler["Strict"]) -> "Strict":
        if isinstance(value, cls) or (isinstance(value, dict) and cls.model_config.get("extra") != "forbid"):
            return handler(value)
        if not isinstance(value, dict):
            raise PydanticCustomError("map", "should be a map of keys and values")
        known, errors = set(cls.model_fields), list[InitErrorDetails]()
        for key in [key for key in value if key not in known]:
            advice = cls._below(str(key)) or hint(str(key), known)
            unknown = PydanticCustomError("unknown_key", "unknown key ({hint})", {"hint": advice})
            errors.append(InitErrorDetails(type=unknown, loc=(str(key),), input=None))
        try:
            made = handler({key: item for key, item in value.items() if key in known})
        except ValidationError as error:
            for e in error.errors():
                what = messages.of(e)
                told = PydanticCustomError(e["type"], "{what}", {"what": what})
                errors.append(InitErrorDetails(type=told, loc=e["loc"], input=e["input"]))
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return made

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: CoreSchema = strict_numbers.strict(handler(source))
        return schema


class Plugin(Strict):
    """The Config of a plug-in: `kind` is its module's name (see launcher.config.kinds)."""

    kind: str


class StrategyConfig(Plugin):
    """The Config of a strategy."""

    @property
    def tensor_degree(self) -> int:
        """How many neighbouring ranks share each sample."""
        return 1


class TaskConfig(Plugin):
    """The Config of a task, with what others need to know of it. A kind overrides what differs."""

    @property
    def held(self) -> "TaskConfig":
        """The task that says what samples are: of one that holds another, the one held."""
        return self

    @property
    def teacher_model(self) -> "Plugin | None":
        """The Config of another model that the task asks, such as a teacher."""
        return None

    @property
    def joins_documents(self) -> bool:
        """Whether samples are cut from documents that are joined."""
        return False

    @property
    def packs_rows(self) -> bool:
        """Whether several samples share a row of a micro-batch."""
        return False

    @property
    def overlap(self) -> int:
        """Tokens that neighbouring samples of one text share."""
        return 0

    @property
    def longest_target(self) -> int:
        """Tokens of a second text for a decoder, at the most; 0: a sample has none."""
        return 0

    @property
    def generates(self) -> bool:
        """Whether evaluations and predictions have the model generate texts."""
        return False

    @property
    def sets_length(self) -> bool:
        """Whether the task says how many tokens a generated text has."""
        return self.generates

    @property
    def multi_label(self) -> bool:
        """Whether a sample may have any number of labels."""
        return False

    @property
    def normalization(self) -> tuple[list[float], list[float]] | None:
        """Means and deviations of an image's channels; None: samples are no images."""
        return None


class OptimizerConfig(Plugin):
    """Keys of every optimiser. Biases and normalization weights have no weight decay."""

    lr: float = Field(gt=0)
    """Learning rate, which the schedule multiplies."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay, with no effect on biases and normalization weights."""
    clip: float | None = Field(1.0, gt=0)
    """Maximum norm of the gradient over all parameters; null: no clipping."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Ratio of a layer's learning rate to that of the next layer (Howard and Ruder, 2018; Clark et al., 2020). The head
    has `lr`, the embeddings the smallest rate."""

    elementwise: ClassVar[bool] = True
    """Whether each number is updated independently of the others, so that a shard is updated as in the whole tensor."""

    def moments(self, in_layers: float) -> float:
        """The size of the optimiser's state over that of the weights. `in_layers`: fraction of the weights that belong
        to repeated layers."""
        return 2.0


def _whole_steps(value: float) -> float:
    if value >= 1 and value != int(value):
        raise PydanticCustomError("span", "is a fraction below 1 or a whole number of steps")
    return value


Beta = Annotated[float, Field(ge=0, lt=1)]
"""A decay rate of a running mean."""
Span = Annotated[float, Field(ge=0), AfterValidator(_whole_steps)]
"""A part of a run: a fraction of its steps (below 1), or a number of steps."""
Floor = Annotated[float, Field(ge=0, le=1)]
"""The lowest factor of the learning rate."""


class ScheduleConfig(Plugin):
    """Keys of every schedule. A schedule is a factor of the learning rate."""

    warmup: Span = 0.0
    """Length of a linear warmup from 0 to `lr`: a fraction of the run's steps (below 1) or a number of steps."""

    uses_evaluations: ClassVar[bool] = False
    """Whether the factor depends on the results of evaluations."""


def matching(pattern: str, what: str) -> AfterValidator:
    """A pydantic annotation for a text of which the whole is to match. `what`: the message where it does not."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise PydanticCustomError("form", "{what}", {"what": what})
        return value

    return AfterValidator(check)


def one_of(types: dict[str, type[Any]]) -> BeforeValidator:
    """A pydantic annotation like a plug-in kind, for the few that are types of one file."""

    def parse(value: Any) -> Any:
        if value is None or isinstance(value, tuple(types.values())):
            return value
        kind = value if isinstance(value, str) else value.get("kind") if isinstance(value, dict) else None
        if not isinstance(kind, str):
            raise PydanticCustomError("kind", "needs a kind ({hint})", {"hint": hint("", types)})
        if kind not in types:
            what = "unknown kind {kind} ({hint})"
            raise PydanticCustomError("kind", what, {"kind": repr(kind), "hint": hint(kind, types)})
        return types[kind].model_validate({"kind": kind} if isinstance(value, str) else value)

    return BeforeValidator(parse)
