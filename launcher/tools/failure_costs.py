"""The costs of steps, checkpoints, starts and failures: measured in a run's ledger, or assumed."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from launcher.plan import run_estimates
from launcher.plan.plan import Plan
from launcher.plan.run_estimates import BYTES_PER_SECOND, save_seconds
from launcher.storage import ledger
from launcher.storage.ledger import OF_STEPS, LedgerLine, Purpose
from launcher.storage.run_dir import RunDir

_ENOUGH_STEPS = 20
"""Number of steps from which the cost of a step is measured."""
_UTILISATION = 0.4
"""Assumed share of the devices' peak."""


@dataclass(frozen=True)
class Cost:
    """A cost in seconds, and where the number comes from."""

    seconds: float
    source: str


def known(plan: Plan, folder: RunDir, given: dict[str, float]) -> dict[str, Cost]:
    """Return each cost of launcher.plan.failure_simulation.Costs with its source: `given` by the user, measured in the
    run folder, or assumed. Raises DamagedFile."""
    measured = measure(ledger.read(folder))
    return {
        **assume(plan),
        **{name: Cost(seconds, f"measured: {folder.path}") for name, seconds in measured.items()},
        **{name: Cost(seconds, "given") for name, seconds in given.items()},
    }


def assume(plan: Plan) -> dict[str, Cost]:
    """Return costs for a run that nothing is known of."""
    at = f"{plan.checkpoint_bytes / 1e9:,.2f} GB at {BYTES_PER_SECOND / 1e9:.0f} GB/s"
    step = Cost(1.0, "assumed: no peak of the devices is known")
    if plan.seconds_at_best and plan.steps:
        what = f"assumed: {_UTILISATION:.0%} of the peak of {plan.ranks} devices"
        step = Cost(plan.seconds_at_best / plan.steps / _UTILISATION, what)
    return {
        "step": step,
        "evaluate": Cost(0.0, "assumed"),
        "save": Cost(save_seconds(plan.checkpoint_bytes), f"assumed: 1 s, and {at}"),
        "durable": Cost(0.0, "assumed: a save waits for the disk"),
        "launch": Cost(run_estimates.LAUNCH, "assumed"),
        "start": Cost(run_estimates.START + plan.checkpoint_bytes / BYTES_PER_SECOND, f"assumed: 1 min, and {at}"),
        "detect": Cost(run_estimates.DETECT, "assumed"),
        "requeue": Cost(run_estimates.REQUEUE, "assumed"),
        "repair": Cost(86400.0, "assumed"),
    }


class _Spent(NamedTuple):
    """What passed between two lines of a process."""

    steps: int
    saves: int
    seconds: dict[Purpose, float]

    def of(self, *purposes: Purpose) -> float:
        """Return the seconds of these purposes."""
        return sum(self.seconds.get(purpose, 0.0) for purpose in purposes)


def measure(lines: Sequence[LedgerLine]) -> dict[str, float]:
    """Return the costs that a ledger shows, in seconds.

    `step`: mean over all steps, also those that were repeated. `save`: mean time that a checkpoint held up training.
    `start`: mean of rank 0's process before its first step, with compilation. `detect`: mean time from the last sign of
    life of ranks to the next ones, if the same command starts them. `launch`: mean time from a command to its ranks,
    without the preparation, which is done once. `evaluate`: for each second of steps.
    """
    trained = [line for line in lines if line.writer == "rank" and line.step is not None]
    spent = [_between(one, other) for one, other in itertools.pairwise(trained) if one.process == other.process]
    steps, saves = sum(one.steps for one in spent), sum(one.saves for one in spent)
    seconds, costs = sum(one.of(*OF_STEPS) for one in spent), dict[str, float]()
    if steps >= _ENOUGH_STEPS and seconds > 0:
        costs |= {"step": seconds / steps, "evaluate": sum(one.of("evaluate") for one in spent) / seconds}
    if saves:
        costs["save"] = sum(one.of("save") for one in spent) / saves
    if last := {line.process: line for line in trained}:
        costs["start"] = fmean(line.seconds.get("start", 0) + line.seconds.get("compile", 0) for line in last.values())
    new = [
        (one, other) for one, other in itertools.pairwise(lines) if one.writer != "rank" or one.process != other.process
    ]
    ranks = [(one, other, max(0.0, other.begun - one.time)) for one, other in new if other.writer == "rank"]
    if launches := [
        one.age - one.seconds.get("prepare", 0.0) + pause for one, _, pause in ranks if one.writer == "command"
    ]:
        costs["launch"] = fmean(launches)
    if pauses := [pause for one, _, pause in ranks if one.writer == "rank"]:
        costs["detect"] = fmean(pauses)
    return costs


def _between(one: LedgerLine, other: LedgerLine) -> _Spent:
    purposes = {*one.seconds, *other.seconds}
    passed = {purpose: other.seconds.get(purpose, 0.0) - one.seconds.get(purpose, 0.0) for purpose in purposes}
    return _Spent(max(0, (other.step or 0) - (one.step or 0)), max(0, other.saves - one.saves), passed)
