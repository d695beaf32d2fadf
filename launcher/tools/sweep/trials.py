"""The trials of a sweep on this machine, in their order. What is recorded as ended is not trained again."""

from collections.abc import Iterator, Sequence

from launcher.config import paths, strict_json
from launcher.config.errors import UserError
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.config.strict_json import DamagedFile, shown
from launcher.storage.run_dir import RunDir, over
from launcher.storage.run_files import PlanSummary
from launcher.tools import recipe_differences
from launcher.tools.sweep import optuna_study, results, space
from launcher.tools.sweep.evaluation_follower import EvaluationFollower, PrunedTrial
from launcher.tools.sweep.local_runs import Follow, LocalRuns
from launcher.tools.sweep.record import RunEnd, Sweep
from launcher.tools.sweep.space import Dimension


def recipes(recipe: Loaded[Recipe], sweep: Sweep, dimensions: Sequence[Dimension]) -> list[Loaded[Recipe]]:
    """Return the recipes of all runs, in the order of their numbers."""
    return [
        run_recipe(recipe, sweep, trial, place, dimensions)
        for trial in range(len(sweep.record.trials))
        for place in range(len(sweep.record.seeds))
    ]


def run_recipe(
    recipe: Loaded[Recipe], sweep: Sweep, trial: int, place: int, dimensions: Sequence[Dimension]
) -> Loaded[Recipe]:
    """Return the recipe of a trial's run. `place`: of its seed. Raises UserError."""
    values = space.overrides(sweep.record.trials[trial], dimensions)
    own = [f"seed={sweep.record.seeds[place]}", "seeds=1", f"name={sweep.run_name(trial, place)}"]
    return recipe.override(*values, *own)


def train(recipe: Loaded[Recipe], sweep: Sweep, dimensions: Sequence[Dimension], here: LocalRuns) -> Sweep:
    """Train all trials, and return the sweep with their ends. Raises Stopped."""
    for trial in range(len(sweep.record.trials)):
        sweep = _train_trial(recipe, sweep, trial, dimensions, here)
    return sweep


def train_optuna(
    recipe: Loaded[Recipe], sweep: Sweep, dimensions: Sequence[Dimension], count: int, here: LocalRuns
) -> Sweep:
    """Train trials whose values Optuna chooses, one after another. A trial may be pruned by the evaluations of its
    first seed. Raises Stopped, and UserError if the study in the folder is not that of this sweep."""
    record = sweep.record
    study = optuna_study.Study(sweep.folder, record.name, record.direction, dimensions, recipe.value.seed)
    for number in range(count):
        recorded = number < len(sweep.record.trials)
        if study.is_finished(number) and recorded:
            continue
        if study.is_finished(number):
            raise _other_study(sweep, number)
        trial, params = study.trial(number)
        if recorded and sweep.record.trials[number] != params:
            raise _other_study(sweep, number)
        if not recorded:
            sweep = sweep.with_trials([*sweep.record.trials, params])
        follow = _follow(trial, record.metric, study.reported(number))
        sweep = _train_trial(recipe, sweep, number, dimensions, here, follow)
        study.finish(results.collect(sweep, recipe.value.evaluate.save_best)[number])
    return sweep


def _other_study(sweep: Sweep, number: int) -> UserError:
    what = f"its trial {number} is not that of {sweep.file}"
    return UserError(f"{sweep.folder / optuna_study.JOURNAL}: {what} (move {sweep.folder} away)")


def _train_trial(
    recipe: Loaded[Recipe],
    sweep: Sweep,
    trial: int,
    dimensions: Sequence[Dimension],
    here: LocalRuns,
    follow: Follow | None = None,
) -> Sweep:
    """Train the runs of a trial, and record their ends. After a pruned or failed run the others are left out. `follow`:
    for the first run."""
    for place, name in enumerate(sweep.run_names(trial)):
        end = sweep.record.ended.get(name)
        if end is None or (end.state == "failed" and _is_done(RunDir(paths.RUNS / name))):
            here.say(f"{name}: {', '.join(_described(sweep, trial, place))}")
            end = here.train(run_recipe(recipe, sweep, trial, place, dimensions), follow if place == 0 else None)
            sweep = sweep.with_end(name, end)
            here.say(f"{name}: {_result(sweep, name, end, recipe.value.evaluate.save_best)}")
        if end.state != "done":
            break
    return sweep


def _follow(trial: PrunedTrial, metric: str, reported: set[int]) -> Follow:
    """Return the function that follows the run of a trial. `reported`: steps that the trial has already."""
    return lambda run, steps: EvaluationFollower(trial, run, metric, reported, steps)


def _is_done(run: RunDir) -> bool:
    """Return whether nothing is left to train, as of a failed run that somebody has started again."""
    whole = run.whole()
    try:
        steps = strict_json.read(run.plan, PlanSummary, "").steps
        return bool(whole) and over(whole[-1], steps) is not None
    except DamagedFile:
        return False


def _described(sweep: Sweep, trial: int, place: int) -> Iterator[str]:
    """Yield the values of a run, and its seed if there are several."""
    params = sweep.record.trials[trial]
    for name, text in zip(recipe_differences.short(list(params)), space.labels(params), strict=True):
        yield f"{name} {shown(text)}"
    if len(sweep.record.seeds) > 1:
        yield f"seed {sweep.record.seeds[place]}"


def _result(sweep: Sweep, name: str, end: RunEnd, of_best: bool) -> str:
    """Return a text about the end of a run."""
    if end.state == "failed":
        return f"failed: {end.error}"
    found = results.evaluations(RunDir(paths.RUNS / name), sweep.record.metric)
    value = results.value_of(found, sweep.record.direction, of_best)
    text = "no finite value" if value is None else f"{value:.4g}"
    pruned = f", pruned at step {max(found, default=0)}" if end.state == "pruned" else ""
    return f"{sweep.record.metric} {text}{pruned}"
