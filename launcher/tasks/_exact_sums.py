"""Sums over what a model made of samples: exact, so that they do not know in what order it was made."""

import math

from launcher.tasks import Outputs


def total(outputs: Outputs, name: str) -> float:
    """The correctly rounded sum (Shewchuk, 1997)."""
    return math.fsum(outputs[name])


def mean_loss(outputs: Outputs) -> float:
    """The loss over its weight; 0 where there is none."""
    weight = total(outputs, "weight")
    return total(outputs, "loss") / weight if weight else 0.0
