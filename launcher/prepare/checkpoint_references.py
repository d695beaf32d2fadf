"""Other runs whose checkpoints a recipe takes: `latest` and `best` are resolved to a step when a run is first started,
so that a resume finds what the start found, however far the other run has gone meanwhile."""

from pathlib import Path
from typing import Any

from launcher.config import load, plugins
from launcher.config.errors import Problem, UserError
from launcher.config.model import ModelConfig
from launcher.config.recipe import Recipe
from launcher.storage import cache_root
from launcher.storage.run_dir import RunDir


def pin(recipe: Recipe, folder: RunDir) -> Recipe:
    """The recipe with the step of each checkpoint: that of the run in `folder` where it has begun. One that is not
    there stays as it is (see `missing`)."""
    earlier = begun(folder)
    model = _pinned(recipe.model, earlier and earlier.model)
    recipe = recipe.model_copy(update={"model": model})
    if (teacher := recipe.task.teacher_model) is None:
        return recipe
    teacher = _pinned(teacher, earlier and earlier.task.teacher_model)
    return recipe.model_copy(update={"task": recipe.task.model_copy(update={"teacher": teacher})})


def missing(recipe: Recipe, resumes: bool = False) -> list[str | Problem]:
    """Why the checkpoint of a teacher cannot be taken, or that step of a model. (Whether the run of a model is there,
    the one that builds it tells.) `resumes`: the run has a checkpoint of its own."""
    teacher, model = recipe.task.teacher_model, recipe.model
    out = list[str | Problem]()
    if getattr(teacher, "run", None) is not None:
        out += _missing("task.teacher", teacher)
    if isinstance(getattr(model, "checkpoint", None), int) and not (resumes and replaced(recipe)):
        out += [problem for problem in _missing("model", model) if problem.key != "model.run"]
    return out


def replaced(recipe: Recipe) -> bool:
    """Whether a checkpoint of its own has all that a run took from another one: not where an adapter is beside weights
    that the other one lacks, nor where the task looks back at the model as it began."""
    model, task = recipe.model, plugins.task(recipe.task)
    return model.kind == "run" and getattr(model, "adapter", None) is None and not task.needs_initial_model


def _missing(key: str, config: Any) -> list[Problem]:
    """Why the checkpoint of a configuration that names a run cannot be taken."""
    folder = RunDir(Path(cache_root.found(config.run)))
    if getattr(config, "weights", None) == "random":
        return []
    if not folder.path.is_dir():
        return [Problem(f"{key}.run", f"{config.run}: no run is there (train it first: its recipe names the folder)")]
    try:
        folder.saved(config.checkpoint)
    except UserError as error:
        return [Problem(f"{key}.checkpoint", str(problem)) for problem in error.problems]
    return []


def _pinned(config: ModelConfig, earlier: Any) -> ModelConfig:
    """A configuration that names a run, with the step of its checkpoint; any other as it is."""
    run, checkpoint = getattr(config, "run", None), getattr(config, "checkpoint", None)
    if run is None or checkpoint not in ("latest", "best") or getattr(config, "weights", None) == "random":
        return config
    if getattr(earlier, "run", None) == run:
        return config.model_copy(update={"checkpoint": earlier.checkpoint})
    try:
        step = RunDir(Path(cache_root.found(run))).saved(checkpoint).step
    except UserError:
        return config
    return config.model_copy(update={"checkpoint": step})


def begun(folder: RunDir) -> Recipe | None:
    """The recipe of a run that has begun."""
    if not folder.recipe.is_file() or not (folder.whole() or folder.metrics.is_file()):
        return None
    try:
        return load.stored(folder.recipe).value
    except UserError:  # its own check tells
        return None
