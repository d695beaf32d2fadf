"""Cross-validation: training of a recipe once for each fold, and the mean and the deviation of the metrics.

Each fold is a run with a separate folder, which validates the fold and trains on the others. A hash of the content
decides the fold of a row.
"""

from typing import TYPE_CHECKING

from launcher.config.cluster import Cluster
from launcher.config.errors import Problem, UserError
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.plan.plan import Plan

if TYPE_CHECKING:
    from launcher.launch import launch_spec
    from launcher.launch.execute import Outcome


def each(recipe: Loaded[Recipe]) -> list[Loaded[Recipe]]:
    """Return the recipe of each fold; the recipe itself if it has no folds. Raises UserError."""
    known, count = recipe.value, recipe.value.data.folds
    if count is None:
        return [recipe]
    problems = list[str | Problem]()
    if known.data.validation is not None:
        what = f"each of the {count} folds is the validation data of a run (leave it out, or take data.folds out)"
        problems.append(Problem("data.validation", what))
    if known.seeds > 1:
        what = (
            f"{known.seeds} seeds of {count} folds each are not supported (one of the two, or seed=N for another run)"
        )
        problems.append(Problem("seeds", what))
    if problems:
        raise recipe.located(UserError(problems))
    return [
        recipe.override("data.folds=null", f"data.validation={{fold: {fold}, of: {count}}}", f"name={name}")
        for fold, name in enumerate(_names(known, count))
    ]


def _names(recipe: Recipe, count: int) -> list[str]:
    return [f"{recipe.name}-fold{fold}" for fold in range(count)]


def noted(plan: Plan, recipe: Loaded[Recipe]) -> Plan:
    """Return the plan of the first fold with a note about the others; the same plan if the recipe has no folds."""
    if (count := recipe.value.data.folds) is None:
        return plan
    names = _names(recipe.value, count)
    what = (
        f"this is the plan of the first of {count} folds; launcher run {recipe.file} trains {names[0]} to {names[-1]}"
    )
    return plan.model_copy(update={"notes": [f"{what}, one after another", *plan.notes]})


def train(
    recipe: Loaded[Recipe], profile: Cluster, ranks: int | None, resume: bool, via: "launch_spec.Via"
) -> "Outcome":
    """Train each fold, in order, until a run fails or is stopped. Returns the outcome. `resume`: refuse to start if the
    run of the first fold has no checkpoint. Raises UserError."""
    from launcher.tools import seeds

    runs = dict(enumerate(each(recipe)))
    return seeds.train_each("folds", recipe.value, runs, profile, ranks, resume, via)
