"""Checkpoints of other runs that a recipe starts from.

`latest` and `best` are resolved to a step when a run is first started. A resume finds the same checkpoint, even if the
other run has continued since.
"""

from pathlib import Path
from typing import TypeVar

from launcher.config import load, plugins
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import Recipe
from launcher.config.types import Plugin, RunReference
from launcher.storage import cache_root, sound_checkpoints
from launcher.storage.run_dir import RunDir

C = TypeVar("C", bound=Plugin)


def pin(recipe: Recipe, folder: RunDir) -> Recipe:
    """Return the recipe with a step in place of each `latest` and `best`.

    If the run in `folder` has begun, its steps are taken, else the present ones. A checkpoint that does not exist is
    left as it is (see `missing`).
    """
    earlier = started_recipe(folder)
    model = _pinned(recipe.model, earlier.model if earlier else None)
    recipe = recipe.model_copy(update={"model": model})
    if (teacher := recipe.task.teacher_model) is None:
        return recipe
    teacher = _pinned(teacher, earlier.task.teacher_model if earlier else None)
    return recipe.model_copy(update={"task": recipe.task.with_teacher(teacher)})


def missing(recipe: Recipe, resumes: bool = False) -> list[str | Problem]:
    """Return problems of the teacher's checkpoint, or of the model's numbered one, that cannot be loaded.

    A missing run of a model is reported when the model is built. `resumes`: whether the run has a checkpoint of its
    own.
    """
    teacher, model = recipe.task.teacher_model, recipe.model.run_reference
    problems = list[str | Problem]()
    if teacher is not None and teacher.run_reference is not None:
        problems += _missing(f"task.{recipe.task.teacher_key}", teacher.run_reference)
    if model is not None and isinstance(model.checkpoint, int) and not (resumes and replaced(recipe)):
        problems += [problem for problem in _missing("model", model) if problem.key != "model.run"]
    return problems


def replaced(recipe: Recipe) -> bool:
    """Return whether a run's own checkpoint replaces the other run's.

    It does not if an adapter is trained beside the other run's weights, or if the task compares the model with its
    start.
    """
    model = recipe.model.run_reference
    return model is not None and not model.adapter and not plugins.task(recipe.task).needs_initial_model


def _missing(key: str, reference: RunReference) -> list[Problem]:
    folder = RunDir(Path(cache_root.found(reference.run)))
    if not reference.weights:
        return []
    if not folder.path.is_dir():
        what = f"{reference.run}: no run is there (train it first: its recipe names the folder)"
        return [Problem(f"{key}.run", what)]
    try:
        folder.saved(reference.checkpoint)
    except UserError as error:
        return [Problem(f"{key}.checkpoint", str(problem)) for problem in error.problems]
    return []


def _pinned(config: C, earlier: Plugin | None) -> C:
    """Return a Config with the step of the checkpoint that it loads; any other Config is returned unchanged.

    `earlier`: the Config of the run that has begun.
    """
    reference, before = config.run_reference, earlier.run_reference if earlier else None
    if reference is None or reference.checkpoint not in ("latest", "best") or not reference.weights:
        return config
    if before is not None and before.run == reference.run:
        return config.model_copy(update={"checkpoint": before.checkpoint})
    try:
        step = sound_checkpoints.verified(RunDir(Path(cache_root.found(reference.run))), reference.checkpoint).step
    except UserError:
        return config
    return config.model_copy(update={"checkpoint": step})


def started_recipe(folder: RunDir) -> Recipe | None:
    """Return the recipe of a run; None: the run has not begun, or the recipe is damaged."""
    if not folder.recipe.is_file() or not (folder.whole() or folder.metrics.is_file()):
        return None
    try:
        return load.stored(folder.recipe).value
    except UserError:  # reported when the run is resumed
        return None
