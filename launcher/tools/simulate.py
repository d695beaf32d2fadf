"""`launcher simulate`: what a recipe would reach on many nodes that fail, from measured and from assumed costs."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.format import plural
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.plan import checkpoint_interval, failure_simulation
from launcher.plan.failure_simulation import Costs, SimulatedJob, SimulatedRuns
from launcher.plan.plan import Plan
from launcher.plan.run_estimates import duration
from launcher.prepare import run_setup
from launcher.storage.run_dir import RunDir
from launcher.tools import failure_costs
from launcher.tools.failure_costs import Cost
from launcher.tools.status import run_time

_RUNS = 200
"""Number of simulated runs."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DESCRIPTIONS = {
    "step": "an optimiser step", "evaluate": "evaluations, for each second of steps",
    "save": "a checkpoint holds up the training", "durable": "after that, until it survives a failure",
    "launch": "from a command to the start of its ranks", "start": "of the ranks until the first step",
    "detect": "from a failure until the ranks can start again",
    "requeue": "wait for a node if no spare is free", "repair": "until a failed node is a spare again",
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """What to simulate. `of_node`: mean seconds between failures of one node. `every`: steps between checkpoints, or
    seconds; None: as in the recipe. `costs`: those that the user states, in seconds."""

    nodes: int
    of_node: float
    every: int | float | None
    spares: int
    seed: int
    costs: dict[str, float]


@dataclass(frozen=True)
class Answer:
    """Simulated runs of a job, and of the same job with the interval `best` between checkpoints."""

    job: SimulatedJob
    costs: dict[str, Cost]
    runs: SimulatedRuns
    best: int
    at_best: SimulatedRuns


def question(
    profile: Cluster,
    nodes: int | None,
    mtbf: str | None,
    every: str | None,
    spares: int,
    seed: int,
    costs: Sequence[str],
) -> Question:
    """Return what the options ask for. Raises UserError with every mistake."""
    wrong, given = list[str](), dict[str, float]()

    def read(option: str, text: str) -> float:
        try:
            return parse_duration(text)
        except ValueError as error:
            wrong.append(f"{option}: {error}")
            return 1.0

    of_profile = profile.hours_between_failures
    of_node = 0.0 if of_profile is None else of_profile * 3600
    if mtbf is not None:
        of_node = read("--mtbf", mtbf)
    elif of_profile is None:
        advice = "of one node, such as --mtbf 5000h"
        wrong.append(f"--mtbf: missing, and the profile {profile.name} has no hours_between_failures ({advice})")
    interval: int | float | None = None
    if every is not None:
        interval = int(every) if re.fullmatch(r"[1-9]\d{0,11}", every) else read("--checkpoint-every", every)
    names = [field.name for field in fields(Costs) if field.name != "evaluate"]
    for text in costs:
        name, _, value = text.partition("=")
        if name in names:
            given[name] = 0.0 if value == "0" and name != "step" else read(f"--assume {name}", value)
        else:
            wrong.append(f"--assume {text}: should be NAME=DURATION with one of the names {', '.join(names)}")
    if wrong:
        raise UserError(wrong)
    return Question(nodes or profile.nodes[1], of_node, interval, spares, seed, given)


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as 250ms, 1.5s, 30m, 5000h or 7d. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h|d)", text)
    if match is None or float(match[1]) == 0:
        raise ValueError(f"{text!r} is no duration (such as 250ms, 90s, 10m, 5000h, 7d)")
    return float(match[1]) * _UNITS[match[2]]


def simulate(recipe: Loaded[Recipe], profile: Cluster, asked: Question, as_json: bool, console: Console) -> None:
    """Simulate runs of a recipe, and print what they reach. Raises UserError."""
    plan = run_setup.hypothetical(recipe, profile)
    if not plan.steps:
        raise UserError(f"{recipe.file}: its number of steps is not known yet (launcher prepare {recipe.file})")
    answer = solve(plan, plan.steps, recipe.value, asked)
    if as_json:
        print(json.dumps(_as_json(answer), indent=1))
    else:
        _print(plan, asked, answer, console)


def solve(plan: Plan, steps: int, recipe: Recipe, asked: Question) -> Answer:
    """Simulate a plan's run of so many steps. Raises DamagedFile."""
    known = failure_costs.known(plan, RunDir(Path(plan.folder)), asked.costs)
    costs = Costs(**{name: cost.seconds for name, cost in known.items()})
    between = checkpoint_interval.of_job(asked.of_node / 3600, asked.nodes)
    best = min(steps, failure_simulation.optimal_every(costs, between))
    every = asked.every if asked.every is not None else _of_recipe(recipe, steps, best, costs)
    if isinstance(every, float):
        every = round(every / (costs.step * (1 + costs.evaluate)))
    jobs = [SimulatedJob(steps, min(steps, max(1, one)), between, asked.spares) for one in (every, best)]
    runs, at_best = (failure_simulation.simulate(job, costs, _RUNS, asked.seed) for job in jobs)
    return Answer(jobs[0], known, runs, best, at_best)


def _of_recipe(recipe: Recipe, steps: int, best: int, costs: Costs) -> int | float:
    """Return the recipe's interval between checkpoints, in steps or seconds. Without one, only the end is saved."""
    every = recipe.checkpoint.every
    if every == "auto":
        return best
    if every == "continuous":  # the next save begins when the last one is complete
        return costs.save + costs.durable
    return parse_duration(every) if isinstance(every, str) else every or steps


def _as_json(answer: Answer) -> dict[str, object]:
    goodput = answer.runs.goodput
    return {
        "job": asdict(answer.job),
        "costs": {name: asdict(cost) for name, cost in answer.costs.items()},
        "goodput": {"mean": float(goodput.mean()), **{f"p{at}": float(np.percentile(goodput, at)) for at in (5, 95)}},
        "failures": float(answer.runs.failures.mean()),
        "finished": float(answer.runs.finished.mean()),
        "time": asdict(answer.runs.mean),
        "optimal": {"every": answer.best, "goodput": float(answer.at_best.goodput.mean())},
    }


def _print(plan: Plan, asked: Question, answer: Answer, console: Console) -> None:
    job, step = answer.job, answer.costs["step"].seconds
    undisturbed = f"{job.steps:,} steps, {duration(job.steps * step)} without a stop"
    lines = [
        f"{plan.name} on {plural(asked.nodes, 'node')}: {undisturbed}",
        f"a node fails every {duration(asked.of_node)}, so one of them every {duration(job.between_failures)}; "
        f"{plural(job.spares, 'spare')}",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print()
    console.print(_costs_table(answer.costs))
    console.print()
    runs, seconds = answer.runs, answer.runs.mean
    low, high = np.percentile(runs.goodput, [5, 95])
    spread = f"{low:.1%} to {high:.1%} in nine of ten of {_RUNS} simulated runs, seed {asked.seed}"
    console.print(f"[bold]goodput {seconds.goodput:.1%}[/] ({spread})", highlight=False, soft_wrap=True)
    took = f"{duration(seconds.total)} with {runs.failures.mean():,.1f} failures on average"
    if not runs.finished.all():
        took = f"[red]{np.mean(~runs.finished):.0%} of the runs never end: they fail before a checkpoint is saved[/]"
    console.print(took, highlight=False)
    best = f"{answer.best:,} steps ({duration(answer.best * step)})"
    console.print(
        f"a checkpoint every {job.every:,} steps ({duration(job.every * step)}); the optimum is every {best}, "
        f"with a goodput of {answer.at_best.mean.goodput:.1%}", highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print()
    console.print(run_time.table(seconds))


def _costs_table(costs: dict[str, Cost]) -> Table:
    """Return a table of the costs with their sources."""
    table = Table(box=None, pad_edge=False)
    for name in ("cost", "", "", "source"):
        table.add_column(name, overflow="fold")
    for name, cost in costs.items():
        shown = f"{cost.seconds:.3f} s" if cost.seconds < 10 else duration(cost.seconds)
        table.add_row(name, f"{cost.seconds:.1%}" if name == "evaluate" else shown, _DESCRIPTIONS[name], cost.source)
    return table
