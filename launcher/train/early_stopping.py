"""The watched metric and early stopping.

The functions are pure functions of the evaluations so far. So the result is the same on every rank and after a resume.
"""

import math
from collections.abc import Mapping, Sequence

from launcher.config.base_model import hint
from launcher.config.errors import Problem, UserError
from launcher.config.training import Evaluate


def value(metrics: Mapping[str, float], evaluate: Evaluate, directions: Mapping[str, str]) -> float:
    """Return the watched metric, negated if higher is better; inf for nan. Raises UserError if no metric has this
    name."""
    if evaluate.metric not in metrics:
        raise UserError(Problem("evaluate.metric", f"no metric {evaluate.metric!r} ({hint(evaluate.metric, metrics)})"))
    found = metrics[evaluate.metric]
    direction = evaluate.direction or directions.get(evaluate.metric, "max")
    return math.inf if math.isnan(found) else found if direction == "min" else -found


def enough(history: Sequence[tuple[int, float]], evaluate: Evaluate) -> bool:
    """Return whether none of the last `patience` evaluations was better than the best before them."""
    if evaluate.patience is None:
        return False
    best, since = math.inf, 0
    for _, found in history:
        better = found < best - evaluate.min_delta if math.isfinite(best) else found < best
        best, since = (found, 0) if better else (best, since + 1)
    return since >= evaluate.patience


def best_so_far(history: Sequence[tuple[int, float]], step: int) -> bool:
    """Return whether the evaluation at this step is better than all before it; False if there is none."""
    before = [found for at, found in history if at < step]
    return any(found < min(before, default=math.inf) for at, found in history if at == step)


def message(history: Sequence[tuple[int, float]], evaluate: Evaluate) -> str:
    """Return the message about an early end of the run."""
    step, _ = min(history, key=lambda entry: (entry[1], entry[0]))
    since = f"no better {evaluate.metric} in {evaluate.patience} evaluations"
    return f"stopped early at step {history[-1][0]}: {since} (the best was at step {step})"
