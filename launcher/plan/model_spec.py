"""The sizes of a model: parameters and widths, counted on the meta device in a child process, then cached."""

import hashlib
import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.config import kinds, paths
from launcher.config.atomic_files import is_file, write
from launcher.config.base_model import Strict
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import Recipe
from launcher.config.types import JsonObject, Plugin
from launcher.plan.model_requirements import ModelRequirements
from launcher.plan.padding_probe import Padding
from launcher.storage import cache_root

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_FORM = "8"
"""Version of Architecture: cached answers of another version are not used."""

_SECONDS = 600
"""Time limit for building a model on the meta device."""


class Architecture(Strict):
    """Sizes and abilities of a model. A width is 0 if the model's configuration does not name it."""

    name: str
    """Name of the model type."""
    parameters: int
    """Number of parameters. Tied parameters count once."""
    trained: int
    """Maximum number of parameters that train."""
    buffers: int
    """Number of values in buffers."""
    parts: dict[str, int] = {}
    """Number of parameters by part, such as embeddings, layers and head."""
    in_layers: int = 0
    """Parameters of the repeated layers."""
    largest_layer: int = 0
    """Parameters of the largest repeated layer."""
    largest_parameter: int = 0
    """Size of the largest tensor."""
    hidden: int = 0
    """Hidden width."""
    layers: int = 0
    """Number of repeated layers."""
    heads: int = 0
    """Attention heads of a layer."""
    attention_dropout: float = 0.0
    """Highest dropout rate of attention weights."""
    packs: str | None = None
    """Why the model cannot take packed rows; empty: it can; None: not tested."""
    padding: Padding | None = None
    """Side on which rows may be padded; None: not tested, or no tokens."""


def count(recipe: Recipe, requirements: ModelRequirements) -> Architecture:
    """Determine the parameter counts, widths and abilities of the recipe's model, from the cache where possible.

    Raises UserError for a model that cannot be built.
    """
    model, packed = recipe.model.model_dump(mode="json"), recipe.inner_task.kind if recipe.packed else None
    question = json.dumps({"model": model, "need": asdict(requirements), "packed": packed}, sort_keys=True)
    file = _file(recipe, question)
    if file is not None and (cached := _cached(file)):
        return cached
    answer = _run_child(question)
    if "problems" in answer:
        raise UserError([Problem(*p) if isinstance(p, list) else p for p in answer["problems"]])
    if file is not None:
        with suppress(OSError):  # a cache that cannot be written costs time only
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file, json.dumps(answer))
    return Architecture.model_validate(answer)


def _cached(file: Path) -> Architecture | None:
    """Return the answer in an entry of the cache; None: it is missing or damaged."""
    try:
        return Architecture.model_validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None


def _run_child(question: str) -> JsonObject:
    """Return the answer of the child process, which has the module search path of this process.

    Raises UserError with the last line of the child's standard error if it gives no answer.
    """
    begin = f"import sys; sys.path[:] = {sys.path!r}; from launcher.plan._model_spec_process import main; main()"
    child = [sys.executable, "-P", "-c", begin]
    try:
        answer = subprocess.run(
            child, input=question, check=False, capture_output=True, text=True, errors="replace", timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UserError(Problem("model", f"cannot be built: not done after {_SECONDS} s (is it too large?)")) from None
    try:
        if answer.returncode == 0:
            return dict(json.loads(answer.stdout))
    except (ValueError, TypeError):
        pass
    last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
    raise UserError(Problem("model", f"cannot be built: {last}"))


def attention_dropout(config: "PretrainedConfig | None") -> dict[str, float]:
    """Return the rates above 0 of attention dropout in a transformers configuration, by key."""
    values: JsonObject = config.to_dict() if config is not None and hasattr(config, "to_dict") else {}
    return {
        name: value
        for name, value in values.items()
        if "att" in name and ("dropout" in name or name.endswith("_pdrop")) and isinstance(value, float) and value > 0
    }


def _file(recipe: Recipe, question: str) -> Path | None:
    """Return the file of a cached answer; None: the answer depends on the user's own code, and is not cached."""
    asked = {"models": recipe.model} | ({"tasks": recipe.inner_task} if recipe.packed else {})
    configuration = _local_configuration(recipe)
    if configuration is None or any(config.runs_own_code for config in asked.values()):
        return None
    versions = metadata.version("transformers") + metadata.version("peft")
    code = "".join(_code(folder, config) for folder, config in asked.items())
    digest = hashlib.blake2b((_FORM + question + versions + code + configuration).encode(), digest_size=16).hexdigest()
    return paths.cache() / paths.ARCHITECTURES / f"{digest}.json"


def _code(folder: str, config: Plugin) -> str:
    """Return a digest of all modules in the folder of a plug-in.

    The plug-in may share code with other modules of the folder, and a user may have added a module to the launcher's.
    """
    files = sorted(Path(str(kinds.of(folder, config).__file__)).parent.glob("*.py"))
    state = hashlib.blake2b(digest_size=16)
    for file in files:
        state.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return state.hexdigest()


def _local_configuration(recipe: Recipe) -> str | None:
    """Return the configuration of a local model as text; empty: the name identifies the model.

    The name of a folder does not, because its content may change. None: no file identifies the model.
    """
    model = recipe.model
    if model.source is None:
        return ""
    file = Path(cache_root.found(model.source.name, model.source.revision)) / model.source.file
    if is_file(file):
        return file.read_text(encoding="utf-8")
    return None if model.run_reference is not None else ""
