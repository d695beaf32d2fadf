"""`launcher sweep`: plan all trials, train them here or as a job array, and compare them.

The trials are ordinary runs, runs/NAME-0, runs/NAME-1 and so on, which `status`, `compare` and `report` read. The
sweep's own files are in sweeps/NAME: no run has this folder, so that `launcher run` may use the name, and a recipe in
it is not taken for that of a run, which may name no code of the user.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console

from launcher.config import plugins
from launcher.config.cluster import Cluster
from launcher.config.document import Override
from launcher.config.errors import Problem, UserError
from launcher.config.format import plural
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.distributed import private_tmp, signals
from launcher.distributed.exit_codes import DONE, FAILED
from launcher.plan import facts
from launcher.prepare import run_setup
from launcher.storage.run_dir import RunDir
from launcher.tools import sweep_grid
from launcher.tools.sweep import best_recipe, job_array, optuna_study, picture, record, results, space, table, trials
from launcher.tools.sweep.local_runs import LocalRuns, Stopped
from launcher.tools.sweep.record import Method, Record, Sweep
from launcher.tools.sweep.space import Dimension, Params


@dataclass(frozen=True)
class Request:
    """What the command line asks for. `values`: texts KEY=VALUES. `trials`: of a random or an Optuna sweep. `seeds`:
    None: those of the recipe. `metric`: None: that of the recipe."""

    method: Method
    values: Sequence[str]
    trials: int | None
    seeds: int | None
    metric: str | None


def sweep(loaded: Loaded[Recipe], profile: Cluster, ranks: int | None, request: Request, console: Console) -> int:
    """Train the trials that are not done yet, and print the results. Returns the exit code. Raises UserError with all
    mistakes before anything starts."""
    private_tmp.enter()
    with signals.interrupting(private_tmp.leave):
        recipe, begun, dimensions, note = _planned(loaded, profile, ranks, request)
    of_best = recipe.value.evaluate.save_best
    begun.folder.mkdir(parents=True, exist_ok=True)
    lease = run_setup.hold(RunDir(begun.folder), ".sweep")
    try:
        if note:
            _say(console, note)
        begun = begun.with_trials(begun.record.trials)
        if plugins.is_queued(profile.scheduler):
            left, states, begun = job_array.submit(recipe, begun, dimensions, profile, console)
            if left:
                _say(console, f"{plural(left, 'run')} left to train: the same command shows how far they are")
            return _show(recipe, begun, of_best, states, console, finished=not left)
        here = LocalRuns(profile, ranks, console)
        if request.method == "optuna":
            assert request.trials is not None
            begun = trials.train_optuna(recipe, begun, dimensions, request.trials, here)
        else:
            begun = trials.train(recipe, begun, dimensions, here)
    except Stopped as stopped:
        _say(console, f"the sweep is stopped: the same command goes on with it ({begun.file})")
        return stopped.code
    finally:
        lease.release()
    return _show(recipe, begun, of_best, {}, console, finished=True)


def _planned(
    loaded: Loaded[Recipe], profile: Cluster, ranks: int | None, request: Request
) -> tuple[Loaded[Recipe], Sweep, list[Dimension], str]:
    """Return the recipe with the sweep's metric, the sweep with its trials, the dimensions, and a note. All trials are
    planned; of an Optuna sweep those at the ends of its ranges. Raises UserError with all mistakes."""
    dimensions, problems = space.parse(f"--{request.method}", request.values)
    problems += _wrong_options(request, dimensions, profile)
    found: list[str | Problem] = [*problems]
    recipe, points, planned = loaded, list[Params](), list[Params]()
    with _collected(found):
        recipe = _with_metric(loaded, request.metric)
        points, planned = _points(request, dimensions, recipe.value.seed)
    with _collected(found):
        _check_points(recipe, planned, dimensions, profile, ranks)
    if found:
        with _collected(found):  # mistakes that have nothing to do with the points, such as an unknown metric
            _check_points(recipe, [{}], [], profile, ranks)
        raise UserError(list(dict.fromkeys(found)))
    known = recipe.value
    seeds = list(range(known.seed, known.seed + (request.seeds or known.seeds)))
    if len(points) * len(seeds) > sweep_grid.MAX_POINTS:
        raise UserError(f"{len(points) * len(seeds)} runs ({sweep_grid.MAX_POINTS} at the most)")
    wanted = Record(
        name=known.name, method=request.method, metric=known.evaluate.metric, direction=_direction(known),
        space=list(request.values), seeds=seeds, trials=points,
    )  # fmt: skip
    begun, note = record.begin(results.folder(known.name), wanted)
    if request.trials is not None and request.trials < len(begun.record.trials):
        raise UserError(f"--trials {request.trials}: {begun.file} has {len(begun.record.trials)} already")
    runs = trials.recipes(recipe, begun, dimensions)
    sweep_grid.map_points(runs, lambda run: run_setup.dry_run(run, profile, ranks))
    return recipe, begun, dimensions, note


@contextmanager
def _collected(problems: list[str | Problem]) -> Iterator[None]:
    """Add the mistakes that the block raises to the list."""
    try:
        yield
    except UserError as error:
        problems += error.problems


def _wrong_options(request: Request, dimensions: Sequence[Dimension], profile: Cluster) -> list[str]:
    """Return the mistakes in the options."""
    problems = list[str]()
    if request.method == "grid" and request.trials is not None:
        problems.append("--trials: a grid has as many trials as points (leave it out)")
    if request.method != "grid" and request.trials is None:
        problems.append(f"--trials: missing (how many points --{request.method} tries)")
    if request.method == "optuna":
        problems += filter(None, [optuna_study.check_installed()])
        problems += optuna_study.check_dimensions(dimensions)
    if plugins.is_queued(profile.scheduler):
        problems += job_array.refusals(request.method, profile)
    return problems


def _with_metric(loaded: Loaded[Recipe], metric: str | None) -> Loaded[Recipe]:
    """Return the recipe, watching the metric of the sweep. Raises UserError if it has no evaluation."""
    if loaded.value.data.validation is None:
        raise UserError("data.validation: missing: a sweep compares evaluations (such as {fraction: 0.02})")
    if metric is None or metric == loaded.value.evaluate.metric:
        return loaded
    return loaded.override(Override(f"evaluate.metric={metric}", f"--metric {metric}"), "evaluate.direction=null")


def _direction(recipe: Recipe) -> record.Direction:
    """Return whether a smaller (min) or larger (max) metric is better."""
    directions = plugins.task(recipe.task)(recipe.task, facts.guess(recipe)).directions()
    return recipe.evaluate.direction or directions.get(recipe.evaluate.metric, "max")


def _points(request: Request, dimensions: Sequence[Dimension], seed: int) -> tuple[list[Params], list[Params]]:
    """Return the points of the trials, and those to plan before. Raises UserError."""
    if not dimensions:
        return [], []
    if request.method == "grid":
        points = space.grid(dimensions)
        return points, points
    drawn = space.draw(dimensions, request.trials, seed) if request.method == "random" and request.trials else []
    return drawn, [*space.corners(dimensions), *drawn]


def _check_points(
    recipe: Loaded[Recipe],
    points: Sequence[Params],
    dimensions: Sequence[Dimension],
    profile: Cluster,
    ranks: int | None,
) -> None:
    """Plan points as runs of a name that no run has. Raises UserError with the mistakes of all."""
    name = f"name={recipe.value.name}-planned"
    loaded = sweep_grid.map_points(
        points, lambda one: recipe.override(*space.overrides(one, dimensions), "seeds=1", name)
    )
    sweep_grid.map_points(loaded, lambda run: run_setup.dry_run(run, profile, ranks))


def _show(
    recipe: Loaded[Recipe], begun: Sweep, of_best: bool, states: dict[str, str], console: Console, finished: bool
) -> int:
    """Print the table, and write the picture and the recipe of the best trial if there is one. Returns the exit
    code."""
    found = results.collect(begun, of_best, states)
    out = Console()
    table.show(begun.record, found, out, of_best)
    best = results.best_of(found, begun.record.direction)
    if not finished:
        return DONE
    if best is None:
        _say(console, f"no trial has a result ({plural(len(found), 'trial')})")
        return FAILED
    lines = [f"best: {', '.join(best.runs)}: {begun.record.metric} {table.metric(best)}"]
    if picture.draw(begun.record, found, begun.folder / "sweep.png"):
        lines.append(f"picture: {begun.folder / 'sweep.png'}")
    lines.append(f"its recipe: launcher run {best_recipe.save(recipe, best, begun.folder)}")
    for line in lines:
        _say(out, line)
    return DONE


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
