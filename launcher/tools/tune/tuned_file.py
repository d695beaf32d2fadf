"""The file of a tuned setting: tuned/<recipe>-<cluster>.yaml.

It has the keys that `launcher tune` found, and the conditions under which they were measured. `launcher run`, `submit`
and `plan` use it under the same conditions.
"""

import hashlib
import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from launcher.config import document as documents
from launcher.config import paths
from launcher.config.atomic_files import is_file, write
from launcher.config.base_model import Strict
from launcher.config.cluster import Cluster
from launcher.config.document import Document
from launcher.config.errors import UserError
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe, flatten
from launcher.config.types import JsonObject
from launcher.plan import topology
from launcher.tuning import setting

_SET, _MEASURED = "set", "measured"
_IGNORE = "--untuned ignores it"


def of(recipe: Loaded[Recipe], profile: Cluster) -> Path:
    """Return the file for a recipe and a profile. Overrides of the recipe's name do not change it."""
    return paths.TUNED / f"{recipe.written.value.get('name', recipe.value.name)}-{profile.name}.yaml"


def conditions(recipe: Recipe, profile: Cluster, ranks: int | None) -> JsonObject:
    """Return what decides how fast a setting is: the ranks and devices, and the recipe's model, data and batch. Of the
    last only a digest is kept, except for numbers. `ranks`: of a node; None: those of the profile."""
    world = topology.world(profile, ranks)
    here = [f"{topology.cores()} cores", world.devices.name] if profile.scheduler.on_this_machine else []
    data = {"train": recipe.data.train.model_dump(mode="json"), "tokenizer": _dump(recipe.tokenizer)}
    return {
        "ranks": world.per_node, "nodes": profile.nodes[1], "device": world.device,
        **({"machine": ", ".join(filter(None, here))} if here else {}),
        "global_batch": recipe.train.global_batch, "precision": recipe.train.precision,
        "max_length": recipe.data.max_length, "optimizer": recipe.optimizer.kind,
        "model": _digest(recipe.model.model_dump(mode="json")), "data": _digest(data),
        "task": _digest(recipe.task.model_dump(mode="json")),
    }  # fmt: skip


def save(file: Path, heading: str, changes: JsonObject, measured: JsonObject) -> None:
    """Write the file. `heading`: a comment above; `changes`: values by dotted keys; `measured`: the conditions."""
    nested: JsonObject = {}
    for key, value in changes.items():
        *parents, last = key.split(".")
        inner = nested
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = StringIO()
    yaml.dump({_SET: nested, _MEASURED: measured}, text)
    file.parent.mkdir(exist_ok=True)
    write(file, "".join(f"# {line}\n" for line in heading.splitlines()) + text.getvalue())


def applied(recipe: Loaded[Recipe], profile: Cluster, ranks: int | None, untuned: bool = False) -> Loaded[Recipe]:
    """Return the recipe with the values of its tuned file, which overrides of the command line replace, and with a note
    about them. Without such a file, or under other conditions, only a note is added. `untuned`: ignore the file. Raises
    UserError with the file and line of each key that a tuned file may not have."""
    file = of(recipe, profile)
    if untuned:
        return ignored(recipe, profile, "--untuned")
    if not is_file(file):
        return recipe
    keys, measured = _read(file)
    now = conditions(recipe.value, profile, ranks)
    if other := [
        _difference(key, measured.get(key), value) for key, value in now.items() if measured.get(key) != value
    ]:
        return _noted(recipe, f"{file} is not used: it was measured {', '.join(other)} (launcher tune finds another)")
    _refuse_code(keys, recipe.value)
    tuned = recipe.merged(keys)
    return _noted(tuned, _used(file, keys, recipe, tuned))


def ignored(recipe: Loaded[Recipe], profile: Cluster, why: str) -> Loaded[Recipe]:
    """Return the recipe as it is, with a note if there is a tuned file."""
    file = of(recipe, profile)
    return _noted(recipe, f"{file} is ignored ({why})") if is_file(file) else recipe


def measured(file: Path) -> JsonObject | None:
    """Return the conditions in a tuned file; None: there is no such file, or it is damaged."""
    try:
        return _read(file)[1] if is_file(file) else None
    except UserError:
        return None


def _read(file: Path) -> tuple[Document, JsonObject]:
    """Return the keys to set, with their lines, and the conditions. Raises UserError."""
    document = documents.read(file)
    wrong = [
        f"{document.origin((key,))}: {key}: unknown key (a tuned file has {_SET} and {_MEASURED})"
        for key in document.value
        if key not in (_SET, _MEASURED)
    ]
    values, measured = document.value.get(_SET), document.value.get(_MEASURED)
    if not isinstance(values, dict) or not isinstance(measured, dict):
        wrong.append(f"{file}:1: needs the maps {_SET} and {_MEASURED} (launcher tune writes them)")
    else:
        for key in flatten(values):
            if not any(key == known or key.startswith(f"{known}.") for known in setting.KEYS):
                origin = document.origin((_SET, *key.split(".")))
                what = f"a tuned file sets keys of speed alone: {', '.join(setting.KEYS)} (set it in the recipe)"
                wrong.append(f"{origin}: {key}: {what}")
    if wrong:
        raise UserError(wrong)
    assert isinstance(values, dict) and isinstance(measured, dict)
    origins = {path[1:]: where for path, where in document.origins.items() if path[:1] == (_SET,)}
    return Document(values, origins), measured


def _refuse_code(keys: Document, recipe: Recipe) -> None:
    """Raise UserError if the keys name code of a strategy that the recipe does not name: the file may be somebody
    else's."""
    values = flatten(keys.value)
    for key in ("strategy", "strategy.kind"):
        kind = str(values.get(key, ""))
        if "." in kind and kind != recipe.strategy.kind:
            what = "a tuned file names no code that the recipe does not name (set it in the recipe)"
            raise UserError(f"{keys.origin(tuple(key.split('.')))}: {key}: {what}")


def _used(file: Path, keys: Document, recipe: Loaded[Recipe], tuned: Loaded[Recipe]) -> str:
    """Return a note about the keys that a file sets, and those of the command line that replace its own."""
    sets, written = list[str](), flatten(recipe.written.value)
    for key, value in flatten(keys.value).items():
        path = tuple(key.split("."))
        if tuned.document.origin(path) != keys.origin(path):
            continue
        before = (
            f" (the recipe: {setting.value_text(written[key])})" if key in written and written[key] != value else ""
        )
        sets.append(f"{key}={setting.value_text(value)}{before}")
    what = f"sets {', '.join(sets)}" if sets else "sets nothing that the command line does not"
    return f"{file} {what}; {_IGNORE}"


def _noted(recipe: Loaded[Recipe], note: str) -> Loaded[Recipe]:
    return replace(recipe, notes=(*recipe.notes, note))


def _difference(key: str, measured: object, now: object) -> str:
    """Return how a condition differs, as the end of a sentence."""
    if key in ("model", "data", "task"):
        return f"with another {key}"
    return f"with {key} {setting.value_text(measured)}, which is {setting.value_text(now)} here"


def _dump(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, Strict) else value


def _digest(value: object) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=6).hexdigest()
