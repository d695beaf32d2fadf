"""`launcher schema`: JSON Schema of recipes and cluster profiles, by which an editor completes and checks keys.

It is draft 7, which every editor reads. The kinds of a plug-in folder are alternatives that `kind` selects, written as
if/then, so that a mistake is reported for the kind that is named and for no other. A file with `base` may lack any
required key. A dotted path as a kind allows any keys.
"""

import copy
import inspect
from collections.abc import Mapping
from typing import Literal

from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import CoreSchema

from launcher.config import kinds
from launcher.config.base_model import Strict
from launcher.config.cluster import Cluster
from launcher.config.recipe import Recipe
from launcher.config.types import JsonObject

_DOTTED: JsonObject = {"type": "string", "pattern": r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$"}
_REFERENCE = "#/definitions/"
_PART = ".part"
"""Ending of the names of definitions in which no key is required, for files with `base`."""
_BASE: JsonObject = {
    "type": "string",
    "description": "A file to inherit from. Maps are merged; lists, and maps of another kind, are replaced.",
}


class _Untitled(GenerateJsonSchema):
    """A generator that adds no titles, which would repeat the keys."""

    def field_title_should_be_set(self, schema: CoreSchema | FieldInfo) -> bool:
        return False


def schema(file: Literal["recipe", "cluster"]) -> JsonObject:
    """Return the schema of recipes or of cluster profiles."""
    return recipe() if file == "recipe" else cluster()


def recipe() -> JsonObject:
    """Return the schema of recipes."""
    return _document("recipe", Recipe, _definitions(Recipe))


def cluster() -> JsonObject:
    """Return the schema of cluster profiles."""
    definitions = _definitions(Cluster)
    for ending in ("", _PART):
        definitions["Cluster" + ending] = _with_sections(definitions["Cluster" + ending], definitions, ending)
    return _document("cluster profile", Cluster, definitions)


def _document(what: str, config: type[Strict], definitions: JsonObject) -> JsonObject:
    """Return the schema of a file. `definitions`: the strict ones, and those of files with `base`."""
    for ending in ("", _PART):
        definitions[config.__name__ + ending]["properties"]["base"] = _BASE
    schema: JsonObject = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"launcher {what}",
        "type": "object",
        "if": {"type": "object", "required": ["base"]},
        "then": {"$ref": f"{_REFERENCE}{config.__name__}{_PART}"},
        "else": {"$ref": f"{_REFERENCE}{config.__name__}"},
    }
    return {**schema, "definitions": _reachable(schema, definitions)}


def _definitions(config: type[Strict]) -> JsonObject:
    """Return the definitions of a Config, of all kinds of all folders, and of each folder, in both forms."""
    plugins = {
        folder: {kind: kinds.module(folder, kind).Config for kind in kinds.available(folder)}
        for folder in kinds.FOLDERS
    }
    configs = [config, *(found for of_folder in plugins.values() for found in of_folder.values())]
    references, generated = models_json_schema(
        [(one, "validation") for one in configs], ref_template=_REFERENCE + "{model}", schema_generator=_Untitled
    )
    definitions: JsonObject = {name: _converted(one, generated["$defs"]) for name, one in generated["$defs"].items()}
    definitions |= {name + _PART: _part(one) for name, one in definitions.items()}
    for folder, of_folder in plugins.items():
        named = {kind: str(references[(found, "validation")]["$ref"]) for kind, found in of_folder.items()}
        described = {kind: _first_sentence(found) for kind, found in of_folder.items()}
        bare = [kind for kind, found in of_folder.items() if not _required(found)]
        part = {kind: name + _PART for kind, name in named.items()}
        definitions[folder] = _family(named, described, bare, optional=False)
        definitions[f"{folder}.inferred"] = _family(named, described, bare, optional=True)
        definitions[f"{folder}{_PART}"] = _family(part, described, bare, optional=True)
        definitions[f"{folder}.inferred{_PART}"] = definitions[f"{folder}{_PART}"]
    return definitions


def _required(config: type[Strict]) -> list[str]:
    return [key for key, field in config.model_fields.items() if field.is_required() and key != "kind"]


def _first_sentence(config: type[Strict]) -> str:
    return " ".join(inspect.cleandoc(vars(config).get("__doc__") or "").split()).partition(". ")[0]


def _family(references: Mapping[str, str], described: Mapping[str, str], bare: list[str], optional: bool) -> JsonObject:
    """Return the schema of a value of a plug-in folder: a map with a kind, or a bare name.

    `references`: definition of each kind. `bare`: kinds that need no other key. `optional`: a map may have no kind.
    """
    kind = {"anyOf": [*({"const": name, "description": described[name]} for name in references), _DOTTED]}
    alternatives: list[JsonObject] = [
        {"if": _names_kind(name), "then": {"$ref": reference}} for name, reference in references.items()
    ]
    if optional:
        some = {"anyOf": [{"$ref": reference} for reference in references.values()]}
        alternatives.append({"if": {"required": ["kind"]}, "else": some})
    return {
        "if": {"type": "string"},
        "then": {"anyOf": [*({"const": name, "description": described[name]} for name in bare), _DOTTED]},
        "else": {
            "type": "object",
            "properties": {"kind": kind},
            "required": [] if optional else ["kind"],
            "allOf": alternatives,
        },
    }


def _names_kind(name: str) -> JsonObject:
    return {"type": "object", "properties": {"kind": {"const": name}}, "required": ["kind"]}


def _converted(node: object, definitions: Mapping[str, JsonObject]) -> object:
    """Convert a schema of pydantic to draft 7, and its placeholders of plug-ins to references."""
    if isinstance(node, list):
        return [_converted(one, definitions) for one in node]
    if not isinstance(node, dict):
        return node
    if set(node) >= {"kinds", "optional"}:
        ending = ".inferred" if node["optional"] else ""
        more = {key: value for key, value in node.items() if key not in ("kinds", "optional")}
        node = {"$ref": f"{_REFERENCE}{node['kinds']}{ending}", **more}
    found: JsonObject = {
        key: value if key in ("default", "const", "enum") else _converted(value, definitions)
        for key, value in node.items()
    }
    if isinstance(found.get("description"), str):
        found["description"] = " ".join(found["description"].split())
    if isinstance(found.get("title"), str):
        del found["title"]
    if found.get("default", 0) is None:
        del found["default"]
    if "prefixItems" in found:
        found["items"] = found.pop("prefixItems")
    if "$ref" in found and len(found) > 1:  # draft 7 ignores what stands beside a reference
        reference = found.pop("$ref")
        target: JsonObject = definitions.get(reference.removeprefix(_REFERENCE), {})
        if described := target.get("description"):
            found = {"description": " ".join(described.split()), **found}
        found["allOf"] = [{"$ref": reference}]
    return _selected(found, definitions)


def _selected(node: JsonObject, definitions: Mapping[str, JsonObject]) -> JsonObject:
    """Return a schema whose alternatives with a constant `kind`, if it has two, are selected by it."""
    options = {one["$ref"].removeprefix(_REFERENCE): one for one in node.get("anyOf", []) if "$ref" in one}
    constants = {
        name: kind["const"]
        for name in options
        if "const" in (kind := definitions.get(name, {}).get("properties", {}).get("kind", {}))
    }
    if len(constants) < 2:
        return node
    rest = [one for one in node["anyOf"] if "$ref" not in one]
    kind = {"anyOf": [{"const": constant} for constant in constants.values()]}
    selected = {
        "type": "object",
        "properties": {"kind": kind},
        "required": ["kind"],
        "allOf": [{"if": _names_kind(constants[name]), "then": options[name]} for name in constants],
    }
    return {**{key: value for key, value in node.items() if key != "anyOf"}, "anyOf": [selected, *rest]}


def _part(node: object, inside: str = "") -> object:
    """Return a schema that requires no key. `inside`: the keyword around the node."""
    if isinstance(node, list):
        return [_part(one, inside) for one in node]
    if not isinstance(node, dict):
        return f"{node}{_PART}" if inside == "$ref" else node
    if inside == "if":
        return copy.deepcopy(node)
    return {
        key: value if key in ("default", "const", "enum") else _part(value, key)
        for key, value in node.items()
        if not (key == "required" and isinstance(value, list) and inside != "properties")
    }


def _with_sections(profile: JsonObject, definitions: Mapping[str, JsonObject], ending: str) -> JsonObject:
    """Return the schema of a profile with the section of its scheduler, which is named like the kind."""
    properties, conditions = dict(profile["properties"]), list[JsonObject]()
    available = kinds.available("schedulers")
    for kind in available:
        config = definitions[f"launcher__schedulers__{kind}__Config{ending}"]
        keys = {key: value for key, value in config["properties"].items() if key != "kind"}
        if not keys:
            continue
        required = [key for key in config.get("required", []) if key != "kind"]
        section = {**config, "properties": keys, "required": required}
        properties[kind] = section if required else {**section, "type": ["object", "null"]}
        needed: JsonObject = {"required": [kind] if required else []}
        if not ending:  # a file with a base may change a section, and leave the kind to the base
            conditions.append(
                {"if": _names_kind(kind), "then": needed, "else": {"properties": {kind: {"type": "null"}}}}
            )
    known = {"anyOf": [*({"const": kind} for kind in available), _DOTTED]}
    properties["kind"] = {**properties["kind"], **known}
    own = {"type": "object", "properties": {"kind": _DOTTED}, "required": ["kind"]}
    conditions.append({"if": own, "else": {"propertyNames": {"enum": [*properties, "base"]}}})
    without = {key: value for key, value in profile.items() if key != "additionalProperties"}
    return {**without, "properties": properties, "allOf": conditions}


def _reachable(schema: JsonObject, definitions: Mapping[str, JsonObject]) -> JsonObject:
    """Return the definitions that a schema refers to, directly or by others, sorted by name."""
    found, left = dict[str, JsonObject](), [schema]
    while left:
        for name in _references(left.pop()):
            if name not in found:
                found[name] = definitions[name]
                left.append(definitions[name])
    return dict(sorted(found.items()))


def _references(node: object) -> list[str]:
    if isinstance(node, list):
        return [name for one in node for name in _references(one)]
    if not isinstance(node, dict):
        return []
    inner = [name for value in node.values() for name in _references(value)]
    return [node["$ref"].removeprefix(_REFERENCE), *inner] if isinstance(node.get("$ref"), str) else inner
