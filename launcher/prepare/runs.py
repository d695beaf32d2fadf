"""Other runs whose checkpoints a recipe takes: `latest` and `best` are resolved to a step when a run is first started,
so that a resume finds what the start found, however far the other run has gone meanwhile."""

from pathlib import Path
from typing import Any

from launcher.config import load
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import Recipe
from launcher.config.types import Plugin
from launcher.plan import store
from launcher.plan.folder import RunFolder


def pin(recipe: Recipe, folder: RunFolder) -> Recipe:
    """The recipe with the step of each checkpoint: that of the run in `folder` where it has begun. One that is not
    there stays as it is (see `missing`)."""
    earlier = begun(folder)
    model = _pinned(recipe.model, earlier and earlier.model)
    recipe = recipe.model_copy(update={"model": model})
    if (teacher := getattr(recipe.task, "teacher", None)) is None:
        return recipe
    teacher = _pinned(teacher, getattr(earlier and earlier.task, "teacher", None))
    return recipe.model_copy(update={"task": recipe.task.model_copy(update={"teacher": teacher})})


def missing(recipe: Recipe) -> list[str | Problem]:
    """Why the checkpoint of a teacher cannot be taken. (Of a model, the one that builds it tells.)"""
    teacher = getattr(recipe.task, "teacher", None)
    if teacher is None or getattr(teacher, "run", None) is None:
        return []
    folder = RunFolder(Path(store.found(teacher.run)))
    if not folder.path.is_dir():
        what = f"{teacher.run}: no run is there (train it first: its recipe names the folder)"
        return [Problem("task.teacher.run", what)]
    try:
        folder.saved(teacher.checkpoint)
    except UserError as error:
        return [Problem("task.teacher.checkpoint", str(problem)) for problem in error.problems]
    return []


def _pinned(config: Plugin, earlier: Any) -> Plugin:
    """A configuration that names a run, with the step of its checkpoint; any other as it is."""
    run, checkpoint = getattr(config, "run", None), getattr(config, "checkpoint", None)
    if run is None or checkpoint not in ("latest", "best") or getattr(config, "weights", None) == "random":
        return config
    if getattr(earlier, "run", None) == run:
        return config.model_copy(update={"checkpoint": earlier.checkpoint})
    try:
        step = RunFolder(Path(store.found(run))).saved(checkpoint).step
    except UserError:
        return config
    return config.model_copy(update={"checkpoint": step})


def begun(folder: RunFolder) -> Recipe | None:
    """The recipe of a run that has begun."""
    if not folder.recipe.is_file() or not (folder.whole() or folder.metrics.is_file()):
        return None
    try:
        return load.recipe(folder.recipe).value
    except UserError:  # its own check tells
        return None
