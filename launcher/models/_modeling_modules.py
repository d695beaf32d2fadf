"""Modules of transformers that define a model, by which the ranks' server can import them before a rank needs them."""

from pathlib import Path

from launcher.config import strict_json


def of_type(model_type: object) -> tuple[str, ...]:
    """Return the modules of a model by the type in its configuration; None: not known. Not every type has a module of
    its own."""
    name = model_type.replace("-", "_") if isinstance(model_type, str) else ""
    own = (f"transformers.models.{name}.modeling_{name}",) if name.isidentifier() else ()
    return ("transformers.modeling_utils", *own)


def of_folder(folder: Path) -> tuple[str, ...]:
    """Return the modules of the model in a folder. A configuration that cannot be read counts as empty."""
    try:
        return of_type(strict_json.read_object(folder / "config.json", "").get("model_type"))
    except strict_json.DamagedFile:
        return of_type(None)
