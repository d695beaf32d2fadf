"""The base of every configuration type: frozen, and a key it does not know is refused with a hint."""

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
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
    from launcher.config.recipe import Recipe


def hint(word: str, known: Iterable[str]) -> str:
    """'did you mean x?' where something close exists, else the list of what there is."""
    names = sorted(known)
    part = [name for name in names if f"_{word}_" in f"_{name}_"][:3]
    almost, close = (difflib.get_close_matches(word, names, n=1, cutoff=cutoff) for cutoff in (0.85, 0.6))
    found = almost or part or close
    return f"did you mean {' or '.join(found)}?" if found else f"there are: {', '.join(names)}"


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

    @classmethod
    def _sections(cls) -> set[str]:
        """Further keys that a subclass validates itself, for the hint to a wrong key."""
        return set()

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any, handler: ModelWrapValidatorHandler["Strict"]) -> "Strict":
        if isinstance(value, cls) or (isinstance(value, dict) and cls.model_config.get("extra") != "forbid"):
            return handler(value)
        if not isinstance(value, dict):
            raise PydanticCustomError("map", "should be a map of keys and values")
        known, errors = set(cls.model_fields), list[InitErrorDetails]()
        for key in [key for key in value if key not in known]:
            advice = cls._below(str(key)) or hint(str(key), known | cls._sections())
            unknown = PydanticCustomError("unknown_key", "unknown key ({hint})", {"hint": advice})
            errors.append(InitErrorDetails(type=unknown, loc=(str(key),), input=None))
        try:
            made = handler({key: item for key, item in value.items() if key in known})
        except ValidationError as error:
            errors += error_details(error)
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
