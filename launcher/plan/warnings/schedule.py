"""A schedule that does not fit into the run."""

from launcher.config import plugins
from launcher.config.errors import Problem
from launcher.config.recipe import Recipe


def warnings(recipe: Recipe, steps: int | None) -> list[Problem]:
    """Return the schedule's warnings; empty: there are none, or the number of steps is not known."""
    return plugins.schedule(recipe.schedule, steps).warnings(recipe.optimizer.lr) if steps else []
