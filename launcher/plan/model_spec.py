"""What a model is made of: parameters and widths, counted on the meta device in a child process, then cached."""

import hashlib
import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from launcher.config.atomic_files import is_file, write
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import Recipe
from launcher.config.types import Strict
from launcher.plan.model_requirements import ModelRequirements
from launcher.plan.padding_probe import Padding
from launcher.storage import cache_root

_FORM = "7"
"""Changed with what an Architecture says, so that an older answer is not taken for a newer one."""

_SECONDS = 600
"""For a model to be built on the meta device; the largest take some."""


class Architecture(Strict):
    """Sizes and abilities of a model. Widths are 0 where its configuration does not name them."""

    name: str
    """Name of the model type."""
    parameters: int
    """Number of parameters, each tied one counted once."""
    trained: int
    """Maximum number of parameters that train."""
    buffers: int
    """Number of values in buffers."""
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


def count(recipe: Recipe, need: ModelRequirements) -> Architecture:
    """The architecture of the recipe's model. Raises UserError for a model that cannot be built."""
    asked = {"model": recipe.model.model_dump(mode="json"), "need": asdict(need)}
    question = json.dumps({**asked, "packed": recipe.inner_task.kind if recipe.packed else None}, sort_keys=True)
    file = _file(recipe, question)
    if file is not None and file.is_file():
        return Architecture.model_validate_json(file.read_text(encoding="utf-8"))
    said = _asked(question)
    if "problems" in said:
        raise UserError([Problem(*p) if isinstance(p, list) else p for p in said["problems"]])
    if file is not None:
        with suppress(OSError):  # a cache that cannot be written costs time only
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file, json.dumps(said))
    return Architecture.model_validate(said)


def _asked(question: str) -> dict[str, Any]:
    """What the child process answers. It looks for modules where this process does, and nowhere else. Raises UserError
    with its last words where it gives no answer."""
    begin = f"import sys; sys.path[:] = {sys.path!r}; from launcher.plan._model_spec_process import main; main()"
    child = [sys.executable, "-P", "-c", begin]
    options: dict[str, Any] = {"capture_output": True, "text": True, "errors": "replace", "timeout": _SECONDS}
    try:
        answer = subprocess.run(child, input=question, check=False, **options)
    except subprocess.TimeoutExpired:
        raise UserError(Problem("model", f"cannot be built: not done after {_SECONDS} s (is it too large?)")) from None
    try:
        if answer.returncode == 0:
            return dict(json.loads(answer.stdout))
    except (ValueError, TypeError):
        pass
    last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
    raise UserError(Problem("model", f"cannot be built: {last}"))


def attention_dropout(config: Any) -> dict[str, float]:
    """The rates above 0 of attention dropout in a transformers configuration, by key."""
    values = config.to_dict() if hasattr(config, "to_dict") else {}
    return {
        name: value
        for name, value in values.items()
        if "att" in name and ("dropout" in name or name.endswith("_pdrop")) and isinstance(value, float) and value > 0
    }


def _file(recipe: Recipe, question: str) -> Path | None:
    """Where the answer is kept; None: it depends on code of the user's, and is asked for each time."""
    told = _local_config(recipe)
    if told is None:
        return None
    versions = metadata.version("transformers") + metadata.version("peft")
    digest = hashlib.blake2b((_FORM + question + versions + told).encode(), digest_size=16).hexdigest()
    return cache_root.root() / "architectures" / f"{digest}.json"


def _local_config(recipe: Recipe) -> str | None:
    """The content of a local model's configuration: the folder's name alone does not tell. None: no file tells."""
    own = recipe.model.kind == "factory" or "." in recipe.model.kind
    if own or recipe.model.trusts_code:
        return None
    for key, inner in (("name", "config.json"), ("run", "model/config.json")):
        name = getattr(recipe.model, key, None)
        file = Path(cache_root.found(name, getattr(recipe.model, "revision", None)) if name else "") / inner
        if name and is_file(file):
            return file.read_text(encoding="utf-8")
        if name and key == "run":
            return None
    return ""
