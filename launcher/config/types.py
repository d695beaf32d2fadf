"""Base classes of all configuration types. They are frozen, and refuse unknown keys with a hint."""

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

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

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster
    from launcher.config.errors import Problem
    from launcher.config.model import ModelConfig
    from launcher.config.recipe import Recipe


JsonObject = dict[str, Any]
"""A JSON object: texts as keys, and values of JSON."""


def hint(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown word: 'did you mean x?' where a known word is close, else the list of known words."""
    names = sorted(known)
    containing = [name for name in names if f"_{word}_" in f"_{name}_"][:3]
    very_close, close = (difflib.get_close_matches(word, names, n=1, cutoff=cutoff) for cutoff in (0.85, 0.6))
    candidates = very_close or containing or close
    return f"did you mean {' or '.join(candidates)}?" if candidates else f"there are: {', '.join(names)}"


def error_details(error: ValidationError, *prefix: str) -> list[InitErrorDetails]:
    """The errors with the messages of `launcher.config.messages`. `prefix`: keys above those of the locations."""
    return [
        InitErrorDetails(
            type=PydanticCustomError(one["type"], "{what}", {"what": messages.of(one)}),
            loc=(*prefix, *one["loc"]),
            input=one["input"],
        )
        for one in error.errors()
    ]


class Strict(BaseModel):
    """A frozen map of keys. Unknown keys are reported together with all other mistakes of the same map. Numbers are
    strict (see launcher.config.strict_numbers). A docstring below a field is the field's description."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def _nested_hint(cls, key: str) -> str:
        """A hint where a nested map has the key; else an empty text."""
        fields = ((name, field.annotation) for name, field in cls.model_fields.items())
        nested = [
            name
            for name, kind in fields
            if isinstance(kind, type) and issubclass(kind, Strict) and key in kind.model_fields
        ]
        return f"did you mean {nested[0]}.{key}?" if nested else ""

    @classmethod
    def _sections(cls) -> set[str]:
        """Further keys that a subclass validates itself, for the hint to a wrong key."""
        return set()

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_unknown_keys(cls, value: object, handler: ModelWrapValidatorHandler["Strict"]) -> "Strict":
        if isinstance(value, cls) or (isinstance(value, dict) and cls.model_config.get("extra") != "forbid"):
            return handler(value)
        if not isinstance(value, dict):
            raise PydanticCustomError("map", "should be a map of keys and values")
        known, errors = set(cls.model_fields), list[InitErrorDetails]()
        for key in [key for key in value if key not in known]:
            advice = cls._nested_hint(str(key)) or hint(str(key), known | cls._sections())
            unknown = PydanticCustomError("unknown_key", "unknown key ({hint})", {"hint": advice})
            errors.append(InitErrorDetails(type=unknown, loc=(str(key),), input=None))
        try:
            validated = handler({key: item for key, item in value.items() if key in known})
        except ValidationError as error:
            errors += error_details(error)
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return validated

    @classmethod
    def _inherit_descriptions(cls) -> None:
        """Let a field that a subclass declares again, such as `kind`, keep the description of the base class."""
        bases = [base for base in cls.__mro__[1:] if issubclass(base, BaseModel)]
        for name, field in cls.model_fields.items():
            if field.description is None:
                declared = (base.model_fields[name] for base in bases if name in base.model_fields)
                field.description = next((one.description for one in declared), None)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        cls._inherit_descriptions()
        schema: CoreSchema = strict_numbers.strict(handler(source))
        return schema


class HubRepository(NamedTuple):
    """A repository of the Hugging Face hub, or a local folder in its place. `revision`: a branch, tag or commit."""

    name: str
    revision: str | None = None
    trust_remote_code: bool = False


class RunReference(NamedTuple):
    """A checkpoint of another run. `weights`: whether its weights are loaded, not only its architecture. `adapter`:
    whether an adapter is trained beside these weights."""

    run: str
    checkpoint: Literal["latest", "best"] | int = "latest"
    weights: bool = True
    adapter: bool = False


class Plugin(Strict):
    """Configuration of a plug-in."""

    kind: str
    """Name of the kind, which is its module's name, or a dotted path to your own module."""

    @property
    def hub_repository(self) -> HubRepository | None:
        """The repository that the plug-in loads, if any: a Config with the keys `name` and `revision`. It is pinned to
        a commit when a run is first started."""
        return None

    @property
    def run_reference(self) -> RunReference | None:
        """The checkpoint that the plug-in loads, if any: a Config with the keys `run` and `checkpoint`. It is pinned to
        a step when a run is first started."""
        return None


class StrategyConfig(Plugin):
    """Configuration of a strategy."""

    @property
    def tensor_degree(self) -> int:
        """Number of neighbouring ranks that share each sample."""
        return 1


class SchedulerConfig(Plugin):
    """The Config of a scheduler: the section of a cluster profile that is named after its kind."""

    queued: ClassVar[bool] = True
    """Whether `launcher submit` hands a job to a queue. Otherwise `launcher run` starts it and waits for it."""
    on_this_machine: ClassVar[bool] = False
    """Whether the ranks run on this machine, whose devices can be detected."""

    @property
    def cores_per_node(self) -> int | None:
        """CPU cores that the ranks of a node share; None: unknown."""
        return None

    def check_nodes(self, minimum: int, maximum: int) -> str | None:
        """Why a job cannot have this number of nodes; None: it can."""
        return None

    def problems(self, recipe: "Recipe", cluster: "Cluster") -> "list[str | Problem]":
        """Conflicts between the recipe, the profile and the scheduler's own limits."""
        return []


class TaskConfig(Plugin):
    """Configuration of a task, with the properties that other modules depend on. A kind overrides those that differ."""

    @property
    def held(self) -> "TaskConfig":
        """The task that defines the samples: this one, or the inner task of one that wraps another."""
        return self

    @property
    def teacher_model(self) -> "ModelConfig | None":
        """The Config of another model that the task evaluates, such as a teacher."""
        return None

    @property
    def joins_documents(self) -> bool:
        """Whether samples are cut from joined documents."""
        return False

    @property
    def packs_rows(self) -> bool:
        """Whether several samples share a row of a micro-batch."""
        return False

    @property
    def overlap(self) -> int:
        """Number of tokens that neighbouring samples of one text share."""
        return 0

    @property
    def longest_target(self) -> int:
        """Maximum number of tokens of a decoder's target; 0: samples have no target."""
        return 0

    @property
    def generates(self) -> bool:
        """Whether evaluation and prediction generate texts."""
        return False

    @property
    def sets_length(self) -> bool:
        """Whether the task defines the number of generated tokens."""
        return self.generates

    @property
    def multi_label(self) -> bool:
        """Whether a sample may have any number of labels."""
        return False

    @property
    def normalization(self) -> tuple[list[float], list[float]] | None:
        """Means and standard deviations of image channels; None: samples are no images."""
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
    """A pydantic annotation for a text that a pattern matches as a whole. `what`: message where it does not."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise PydanticCustomError("form", "{what}", {"what": what})
        return value

    return AfterValidator(check)


def one_of(types: dict[str, type[Strict]]) -> BeforeValidator:
    """A pydantic annotation for a value whose `kind` selects one of these types."""

    def parse(value: object) -> object:
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
