"""The metric that is watched: pure functions of the evaluations made so far, alike on every rank and after a resume."""

import math
from collections.abc import Mapping, Sequence

from launcher.config.errors import Problem, UserError
from launcher.config.recipe import Evaluate
from launcher.config.types import hint


def value(metrics: Mapping[str, float], evaluate: Evaluate, directions: Mapping[str, str]) -> float:
    """The watched metric, turned so that less is better. One that is not a number is as bad as can be. Raises UserError
    where there is none of this name."""
    if evaluate.metric not in metrics:
        raise UserError(Problem("evaluate.metric", f"no metric {evaluate.metric!r} ({hint(evaluate.metric, metrics)})"))
    found = metrics[evaluate.metric]
    direction = evaluate.direction or directions.get(evaluate.metric, "max")
    return math.inf if math.isnan(found) else found if direction == "min" else -found


def enough(history: Sequence[tuple[int, float]], evaluate: Evaluate) -> bool:
    """Whether the last `patience` evaluations were none better than the best before them."""
    if evaluate.patience is None:
        return False
    best, since = math.inf, 0
    for _, found in history:
        better = found < best - evaluate.min_delta if math.isfinite(best) else found < best
        best, since = (found, 0) if better else (best, since + 1)
    return since >= evaluate.patience


def best_so_far(history: Sequence[tuple[int, float]], step: int) -> bool:
    """Whether there was an evaluation at this step, better than all before it."""
    before = [found for at, found in history if at < step]
    return any(found < min(before, default=math.inf) for at, found in history if at == step)


def told(history: Sequence[tuple[int, float]], evaluate: Evaluate) -> str:
    """Why a run ends early, for a person."""
    step, _ = min(history, key=lambda entry: (entry[1], entry[0]))
    since = f"no better {evaluate.metric} in {evaluate.patience} evaluations"
    return f"stopped early at step {history[-1][0]}: {since} (the best was at step {step})"
