"""Warnings of a plan: values that are allowed and rarely meant, each with a reason and a remedy in parentheses.

A warning never stops a run. Rules are conservative: a recipe that follows published practice gives none.
"""

from launcher.config.errors import Problem
from launcher.config.recipe import Recipe
from launcher.plan.facts import Facts
from launcher.plan.model_spec import Architecture
from launcher.plan.topology import World
from launcher.plan.warnings import data, labels, learning_rate, numbers, schedule


def of(recipe: Recipe, shape: Architecture, world: World, known: Facts | None, steps: int | None) -> list[Problem]:
    """Return all warnings, in the order of a recipe's sections. `known`: facts of prepared data; `steps`: optimiser
    steps of the run; None: not known yet."""
    return [
        *data.warnings(recipe, known, steps),
        *labels.warnings(known),
        *numbers.warnings(recipe, world),
        *learning_rate.warnings(recipe, shape),
        *schedule.warnings(recipe, steps),
    ]
