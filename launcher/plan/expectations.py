"""What a run is expected to take, from an earlier run of the same plan: time, goodput and cost."""

from launcher.config.cluster import Cluster
from launcher.config.recipe import Recipe
from launcher.config.training import AUTO, CONTINUOUS
from launcher.plan import checkpoint_interval, earlier_runs, run_estimates
from launcher.plan.plan import Plan


def added(plan: Plan, recipe: Recipe, cluster: Cluster) -> Plan:
    """Return the plan with what an earlier run lets expect, and with the goodput and cost by the cluster's figures."""
    measured = earlier_runs.find(plan)
    seconds = measured.seconds_of(plan.steps) if measured is not None and plan.steps else None
    step = None if measured is None else measured.step
    goodput = _goodput(plan, recipe, cluster, step) if cluster.hours_between_failures else None
    cost = None
    if seconds is not None and cluster.price_per_hour is not None and goodput != 0:
        cost = seconds / (goodput or 1.0) / 3600 * plan.nodes * cluster.price_per_hour
    return plan.model_copy(
        update={
            "expected_seconds": seconds,
            "measured_in": str(measured.folder) if measured is not None and seconds is not None else "",
            "goodput": goodput,
            "price_per_hour": cluster.price_per_hour,
            "cost": cost,
        }
    )


def _goodput(plan: Plan, recipe: Recipe, cluster: Cluster, step: float | None) -> float | None:
    """Return the expected goodput if nodes fail; None: the interval between checkpoints is in steps, and the seconds of
    a `step` are not known."""
    cost = run_estimates.save_seconds(plan.checkpoint_bytes)
    between = checkpoint_interval.between_failures(cluster)
    every = _seconds_between(plan, recipe, step, cost, between)
    if every is None:
        return None
    load = plan.checkpoint_bytes / run_estimates.BYTES_PER_SECOND
    restart = run_estimates.DETECT + run_estimates.REQUEUE + run_estimates.LAUNCH + run_estimates.START + load
    return checkpoint_interval.goodput(every, cost, restart, between)


def _seconds_between(plan: Plan, recipe: Recipe, step: float | None, cost: float, between: float) -> float | None:
    """Return the seconds between two checkpoints; None: not known. Without an interval, only the end is saved."""
    every = recipe.checkpoint.every
    if every == AUTO:
        return checkpoint_interval.optimal(cost, between)
    if every == CONTINUOUS:
        return cost
    if recipe.checkpoint.interval is not None:
        return float(recipe.checkpoint.interval)
    steps = every if isinstance(every, int) else plan.steps
    return None if step is None or steps is None else steps * step
