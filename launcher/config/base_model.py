"""Base class of all configuration types, and validators for them. Configurations are frozen and refuse unknown keys."""

import difflib
import re
from collections.abc import Iterable

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from launcher.config import field_descriptions, key_names, messages, strict_numbers


def hint(word: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown word: 'did you mean x?' if a known word is similar, else the list of known words."""
    names = sorted(known)
    containing = [name for name in names if f"_{word}_" in f"_{name}_"][:3]
    very_close, close = (difflib.get_close_matches(word, names, n=1, cutoff=cutoff) for cutoff in (0.85, 0.6))
    same = [name for name in names if name.lower() == word.lower()][:1]  # but for capitals
    candidates = same or very_close or containing or close
    return f"did you mean {' or '.join(candidates)}?" if candidates else f"there are: {', '.join(names)}"


def error_details(error: ValidationError, *prefix: str) -> list[InitErrorDetails]:
    """Return the errors with the messages of `launcher.config.messages`. `prefix`: keys to put before each location."""
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
    strict (see launcher.config.strict_numbers). A docstring below a field is its description (see
    launcher.config.field_descriptions)."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def _nested_hint(cls, key: str) -> str:
        """Return a hint that names the nested map with this key; empty if no nested map has it."""
        fields = ((name, field.annotation) for name, field in cls.model_fields.items())
        nested = [
            name
            for name, kind in fields
            if isinstance(kind, type) and issubclass(kind, Strict) and key in kind.model_fields
        ]
        return f"did you mean {nested[0]}.{key}?" if nested else ""

    @classmethod
    def _sections(cls) -> set[str]:
        """Return further keys that a subclass validates itself. Hints for unknown keys suggest them too."""
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
            meant = key_names.meant(str(key), known)
            advice = f"did you mean {meant}?" if meant else cls._nested_hint(str(key))
            advice = advice or hint(str(key), known | cls._sections())
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
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: CoreSchema = strict_numbers.strict(handler(source))
        return schema

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        found = handler(schema)
        descriptions = field_descriptions.of(cls)
        for name, one in handler.resolve_ref_schema(found).get("properties", {}).items():
            if name in descriptions:
                one["description"] = descriptions[name]
        return found


def matching(pattern: str, what: str) -> AfterValidator:
    """Return a pydantic validator that requires the whole string to match `pattern`. `what`: the error message."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise PydanticCustomError("form", "{what}", {"what": what})
        return value

    return AfterValidator(check)


def one_of(types: dict[str, type[Strict]]) -> BeforeValidator:
    """Return a pydantic annotation for a value whose `kind` selects one of these types."""

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
