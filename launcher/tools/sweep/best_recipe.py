"""The recipe of the best trial: it inherits from the recipe of the sweep, and has the values that the trial changed."""

import os
from functools import reduce
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from launcher.config import document
from launcher.config.atomic_files import is_file, write
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.tools.sweep import space
from launcher.tools.sweep.results import TrialResult

FILE = "best.yaml"


def save(recipe: Loaded[Recipe], best: TrialResult, folder: Path) -> Path:
    """Write the recipe that `launcher run` trains with the values of the best trial, as a run of another name. Returns
    its file. `recipe`: of the sweep, with the overrides of the command line."""
    file = folder / FILE
    written = [*recipe.overrides, *space.overrides(best.params), f"name={recipe.value.name}-best", "seeds=1"]
    merged = reduce(lambda below, text: document.merge(below, document.of_override(text), parts=True), written, _EMPTY)
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = StringIO()
    yaml.dump({"base": _base(recipe.file, folder), **merged.value}, text)
    write(file, f"# The best trial of this sweep: {', '.join(best.runs)}\n{text.getvalue()}")
    return file


_EMPTY = document.Document({})


def _base(file: str, folder: Path) -> str:
    """Return the recipe's file as a file in the folder names it. A shipped recipe is found by its name."""
    path = Path(file)
    return os.path.relpath(path.resolve(), folder.resolve()) if is_file(path) else f"{file}.yaml"
