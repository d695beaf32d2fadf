"""Simulation of a run whose nodes fail: how long it takes, and where the time goes. Pure and seeded.

The time between failures of the job is exponential. A failure ends all ranks. They start again from the newest durable
checkpoint, at once if there is a spare node, otherwise after a wait for another one. During detection and waits, no
further node fails.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launcher.plan import checkpoint_interval
from launcher.storage.goodput import RunSeconds
from launcher.storage.ledger import PURPOSES, Purpose

_MOST_FAILURES = 20_000
"""Failures after which a run that does not end is given up."""
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Costs:
    """Costs in seconds.

    `step`: of an optimiser step. `evaluate`: of evaluations, for each second of steps. `save`: that a checkpoint holds
    up the training; `durable`: after these, until it survives a failure. `detect`: from a failure until it is noticed
    and the other ranks have ended. `launch`: from a command, as of a requeued job, until its ranks begin to start;
    `start`: of the ranks until the first step, with loading. `requeue`: wait for a node where no spare is free.
    `repair`: until a node that has failed is a spare again.
    """

    step: float
    save: float
    start: float
    detect: float = 0.0
    durable: float = 0.0
    launch: float = 0.0
    requeue: float = 0.0
    repair: float = 0.0
    evaluate: float = 0.0


@dataclass(frozen=True)
class SimulatedJob:
    """A job of `steps` optimiser steps with a checkpoint `every` so many. `between_failures`: mean seconds between
    failures of the whole job; `spares`: nodes in reserve."""

    steps: int
    every: int
    between_failures: float
    spares: int = 0


@dataclass(frozen=True)
class SimulatedRuns:
    """Simulated runs, one for each element. `seconds`: by purpose; `failures`: their number; `finished`: whether all
    steps were done."""

    seconds: dict[Purpose, Numbers]
    failures: Numbers
    finished: NDArray[np.bool_]

    @property
    def goodput(self) -> Numbers:
        """Share of the seconds in steps that count."""
        total: Numbers = np.sum(list(self.seconds.values()), axis=0)
        return self.seconds["compute"] / total

    @property
    def mean(self) -> RunSeconds:
        """The mean seconds of the runs by purpose."""
        return RunSeconds.of({purpose: float(values.mean()) for purpose, values in self.seconds.items()})


def optimal_every(costs: Costs, between_failures: float) -> int:
    """Return the number of steps between two checkpoints that loses the least time, by Daly's formula."""
    step = costs.step * (1 + costs.evaluate)
    return max(1, round(checkpoint_interval.optimal(max(costs.save, 1e-9), between_failures) / step))


def simulate(job: SimulatedJob, costs: Costs, runs: int, seed: int) -> SimulatedRuns:
    """Simulate so many runs of a job. All run side by side, one start of each at a time."""
    random = np.random.default_rng(seed)
    seconds = {purpose: np.zeros(runs) for purpose in PURPOSES}
    done, clock, failures = np.zeros(runs), np.full(runs, costs.launch), np.zeros(runs)
    seconds["start"] += costs.launch
    free_at, finished = np.zeros((runs, job.spares)), np.zeros(runs, dtype=bool)
    for _ in range(_MOST_FAILURES):
        left = ~finished
        life = random.exponential(job.between_failures, runs)
        start = _Start.of(job, costs, job.steps - done, life)
        wait, requeued = _waits(free_at, clock + life, costs, left & ~start.finished)
        parts: dict[Purpose, Numbers] = {
            "start": start.start + requeued * costs.launch, "compute": start.kept, "lost": start.lost,
            "save": start.save, "evaluate": start.evaluate, "down": np.where(start.finished, 0.0, costs.detect + wait),
        }  # fmt: skip
        for purpose, values in parts.items():
            seconds[purpose] += np.where(left, values, 0.0)
        clock += np.sum(list(parts.values()), axis=0)
        done += start.steps
        failures += left & ~start.finished
        finished |= start.finished
        if finished.all():
            break
    return SimulatedRuns(seconds, failures, finished)


@dataclass(frozen=True)
class _Start:
    """One start of each run, up to its failure or its end. `kept`, `lost`: seconds of steps that count and that do not;
    `steps`: number of steps that are saved."""

    start: Numbers
    kept: Numbers
    lost: Numbers
    save: Numbers
    evaluate: Numbers
    steps: Numbers
    finished: NDArray[np.bool_]

    @classmethod
    def of(cls, job: SimulatedJob, costs: Costs, left: Numbers, life: Numbers) -> "_Start":
        """Return the starts of runs that have `left` steps to do, and fail after `life` seconds.

        A cycle is an interval of steps with its evaluations, and the save after it. A save waits for the one before to
        be durable. The last one is waited for too.
        """
        interval, slower = job.every * costs.step, 1 + costs.evaluate
        cycle = interval * slower + costs.save + max(0.0, costs.durable - interval * slower)
        saves = np.ceil(left / job.every) - 1  # before the last one
        needed = left * costs.step * slower + saves * (cycle - interval * slower) + costs.save + costs.durable
        lived = np.maximum(0.0, life - costs.start)
        finished = lived >= needed
        lived = np.minimum(lived, needed)
        whole = np.floor(lived / cycle)
        begun = np.minimum((lived - whole * cycle) / slower, interval)
        trained = np.minimum(whole * interval + begun, left * costs.step)
        saved = np.clip(np.floor((lived - costs.durable) / cycle), 0, np.maximum(saves, 0))
        steps = np.where(finished, left, saved * job.every)
        kept = np.where(finished, trained, np.minimum(saved * interval, trained))
        return cls(
            start=np.minimum(life, costs.start), kept=kept, lost=trained - kept,
            save=np.maximum(0.0, lived - trained * slower), evaluate=trained * costs.evaluate, steps=steps,
            finished=finished,
        )  # fmt: skip


def _waits(
    free_at: Numbers, now: Numbers, costs: Costs, failed: NDArray[np.bool_]
) -> tuple[Numbers, NDArray[np.bool_]]:
    """Return the seconds until each run has a node again, and whether it is requeued for it. The others take the spare
    that is free first. `free_at`: times at which the spares of each run are free, shape (runs, spares); changed in
    place."""
    if not free_at.shape[1]:
        return np.full(len(now), costs.requeue), failed
    rows, first = np.arange(len(now)), free_at.argmin(axis=1)
    wait = np.maximum(0.0, free_at[rows, first] - now)
    taken = failed & (wait <= costs.requeue)
    free_at[rows[taken], first[taken]] = (now + wait + costs.repair)[taken]
    waits: Numbers = np.minimum(wait, costs.requeue)
    return waits, failed & ~taken
