"""The dotted keys that a recipe and a profile may have, with the values to choose from, for completion.

They are found from the Configs of the kinds that the files name. The files need not be valid. No module of the user's
is imported.
"""

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from launcher.config import field_descriptions, kinds, load, override_keys
from launcher.config.base_model import Strict
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.config.types import JsonObject


class Key(NamedTuple):
    """A key's description, and values that may follow it, as an override has them. Others may be valid too."""

    description: str
    values: list[str]


def keys(recipe: str, cluster: str, overrides: Sequence[str] = ()) -> dict[str, Key]:
    """Return the keys of a recipe, and those of a profile after `cluster.`. A file that cannot be read counts as
    empty."""
    of_recipe, of_cluster = override_keys.parted(overrides)
    profile = _raw(cluster, "cluster", [text.lstrip().removeprefix("cluster.") for text in of_cluster])
    found = dict(_below(Recipe, _raw(recipe, "recipes", of_recipe), ""))
    found |= _below(Cluster, profile, "cluster.")
    found["cluster.kind"] = Key(found["cluster.kind"].description, kinds.available("schedulers"))
    kind = profile.get("kind", "local")
    if kind in kinds.available("schedulers"):
        section = _below(kinds.module("schedulers", kind).Config, profile.get(kind), f"cluster.{kind}.")
        found |= {key: value for key, value in section if not key.endswith(".kind")}
    return found


def _raw(file: str, folder: str, overrides: Sequence[str]) -> JsonObject:
    for texts in (overrides, ()):
        try:
            return load.raw(file, folder, texts)
        except UserError:
            continue
    return {}


def _below(config: type[Strict], written: object, prefix: str) -> Iterator[tuple[str, Key]]:
    """Yield the keys of a Config, and of the maps below it. `written`: what the file has."""
    given, descriptions = written if isinstance(written, dict) else {}, field_descriptions.of(config)
    for name, field in config.model_fields.items():
        value, choices = given.get(name), _Choices(field.annotation, field.metadata)
        inner = choices.config(value)
        if inner is None or choices.folders or choices.scalar:
            yield prefix + name, Key(_first_sentence(descriptions.get(name, "")), _values(field, choices, value))
        if inner is not None:
            for key, below in _below(inner, value, f"{prefix}{name}."):
                kind = key == f"{prefix}{name}.kind" and choices.folders
                yield key, Key(below.description, choices.kinds()) if kind else below
    for name, value in given.items():
        if name not in config.model_fields and config.model_config.get("extra") == "allow":
            yield prefix + name, Key("", _written([value]))


class _Choices:
    """What an annotation allows.

    `configs`: kinds of maps; `folders`: plug-in folders; `literals`: fixed values; `scalar`: whether other values.
    """

    def __init__(self, annotation: object, metadata: Sequence[object]):
        self.configs, self.folders, self.literals = list[type[Strict]](), list[str](), list[object]()
        self.scalar = False
        self._add(annotation, metadata)

    def _add(self, annotation: object, metadata: Sequence[object] = ()) -> None:
        for one in metadata:
            if isinstance(one, kinds.KindValidator):
                self.folders.append(one.folder)
            elif isinstance(one, BeforeValidator) and one.json_schema_input_type is not PydanticUndefined:
                self._add(one.json_schema_input_type)
        origin, parts = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            self._add(parts[0], parts[1:])
        elif origin in (Union, types.UnionType):
            for part in parts:
                self._add(part)
        elif origin is Literal:
            self.literals += parts
        elif annotation is bool:
            self.literals += [True, False]
        elif annotation is type(None):
            self.literals.append(None)
        elif isinstance(annotation, type) and issubclass(annotation, Strict):
            self.configs.append(annotation)
        else:
            self.scalar = True

    def config(self, value: object) -> type[Strict] | None:
        """Return the Config of a value that is written in a file; None: it is no map, or its keys are unknown."""
        kind = value if isinstance(value, str) else value.get("kind") if isinstance(value, Mapping) else None
        if self.folders and kind is not None:
            folder = self.folders[0]
            return kinds.module(folder, kind).Config if kind in kinds.available(folder) else None
        plain = [one for one in self.configs if "kind" not in one.model_fields]
        named = [one for one in self.configs if "kind" in one.model_fields and one.model_fields["kind"].default == kind]
        return next(iter([*named, *plain]), None)

    def kinds(self) -> list[str]:
        """Return the kinds of the plug-in folders."""
        return [kind for folder in dict.fromkeys(self.folders) for kind in kinds.available(folder)]


def _values(field: FieldInfo, choices: _Choices, value: object) -> list[str]:
    """Return the written value, the allowed ones, and the default, without repetition."""
    default = [] if field.is_required() else [field.get_default(call_default_factory=True, validated_data={})]
    written = [] if value is None else [value]
    return list(dict.fromkeys([*choices.kinds(), *_written([*written, *choices.literals, *default])]))


def _written(values: Sequence[object]) -> list[str]:
    """Return the plain values as YAML. Maps, lists and texts of several words are left out."""
    words = {True: "true", False: "false", None: "null"}
    plain = [one for one in map(to_jsonable_python, values) if one is None or isinstance(one, str | int | float)]
    texts = [words[one] if isinstance(one, bool) or one is None else str(one) for one in plain]
    return [text for text in texts if text and text.isprintable() and not set(text) & set(" \"'$`{}[]#&*!|>%@\\\\")]


def _first_sentence(text: str) -> str:
    return " ".join(text.split()).partition(". ")[0]
