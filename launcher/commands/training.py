"""Commands that start training, here or in a queue."""

from typing import Annotated

import typer
from rich.console import Console

from launcher.tools import command_exit
from launcher.tools import command_options as options


def run(
    recipe: options.OptionalRecipeFile = None,
    overrides: options.Overrides = None,
    cluster: options.ClusterFile = "local",
    ranks: options.Ranks = None,
    resume: options.Resume = False,
    via: options.Via = options.Starter.elastic,
    max_restarts: options.MaxRestarts = None,
    bundle: options.Bundle = None,
    untuned: options.Untuned = False,
    trust: options.Trust = None,
) -> None:
    """Plan, prepare and train here, once for each seed or fold. A run folder with a checkpoint is resumed."""
    from launcher.config import load
    from launcher.tools import local_start
    from launcher.tools.tune import tuned_file

    file, overrides = command_exit.recipe_of(bundle, recipe, overrides or [])
    restarts = [] if max_restarts is None else [f"cluster.max_restarts={max_restarts}"]
    profile, overrides = load.profile(cluster, overrides, *restarts)
    local_start.check_starts_here(file, overrides, profile)
    loaded = tuned_file.applied(load.recipe(file, overrides), profile, ranks, untuned)
    if via is options.Starter.elastic and profile.scheduler.on_this_machine:
        local_start.warm_up(loaded.value, profile, ranks)

    from launcher.tools import folds, run_command, seeds  # a server imports the modules of the ranks meanwhile

    train = seeds.train if loaded.value.seeds > 1 else run_command.train
    if loaded.value.data.folds is not None:
        train = folds.train
    command_exit.leave(train(loaded, profile, ranks, resume, via.value))


def submit(
    recipe: options.RecipeFile,
    overrides: options.Overrides = None,
    cluster: options.QueueFile = None,
    dry_run: options.DryRun = False,
    max_requeues: options.MaxRequeues = None,
    grid: options.GridFile = None,
    untuned: options.Untuned = False,
    trust: options.Trust = None,
) -> None:
    """Plan, prepare and submit the run to a queue. The job requeues itself until all steps are done."""
    from launcher.config import load
    from launcher.tools import submit as tool
    from launcher.tools.tune import tuned_file

    profile, overrides = tool.load_profile(cluster, overrides or [], max_requeues)
    loaded = load.recipe(recipe, overrides)
    if grid is None:
        loaded = tuned_file.applied(loaded, profile, None, untuned)
    else:
        loaded = tuned_file.ignored(loaded, profile, "the points of a grid may have other conditions")
    tool.submit(loaded, profile, grid, dry_run, Console(stderr=True))


Grid = Annotated[
    list[str] | None,
    typer.Option("--grid", metavar="KEY=VALUES", help="Values that a key takes: optimizer.lr=1e-4,3e-4 (repeatable)."),
]
Random = Annotated[
    list[str] | None,
    typer.Option(
        "--random", metavar="KEY=RANGE",
        help="Draw a key's values: log:1e-5:1e-3, float:0:0.3, int:1:8, or a list (repeatable).",
    ),
]  # fmt: skip
Optuna = Annotated[
    list[str] | None,
    typer.Option("--optuna", metavar="KEY=RANGE", help="As --random, chosen by Optuna from the trials before."),
]
Trials = Annotated[int | None, typer.Option("--trials", min=1, help="Trials of --random or --optuna.")]
Seeds = Annotated[int | None, typer.Option("--seeds", min=1, help="Seeds of each trial (default: the recipe's).")]
Metric = Annotated[
    str | None, typer.Option("--metric", help="Metric to compare by (default: the recipe's evaluate.metric).")
]


def sweep(
    recipe: options.RecipeFile,
    overrides: options.Overrides = None,
    grid: Grid = None,
    random: Random = None,
    optuna: Optuna = None,
    trials: Trials = None,
    seeds: Seeds = None,
    metric: Metric = None,
    cluster: options.ClusterFile = "local",
    ranks: options.Ranks = None,
    trust: options.Trust = None,
) -> None:
    """Train a recipe with many values of its keys, here or as a job array, and compare. Repeat it to go on."""
    from launcher.config import load, plugins
    from launcher.config.errors import UserError
    from launcher.tools.sweep import sweep as tool
    from launcher.tools.sweep.record import Method

    methods = [name for name, values in (("grid", grid), ("random", random), ("optuna", optuna)) if values]
    if len(methods) != 1:
        what = "needs one of --grid, --random and --optuna, such as --grid optimizer.lr=1e-4,3e-4"
        raise UserError(f"launcher sweep: {what}")
    method: Method = "grid" if grid else "random" if random else "optuna"
    profile, overrides = load.profile(cluster, overrides or [])
    if plugins.is_queued(profile.scheduler):
        profile = plugins.scheduler(profile.scheduler).complete(profile)
    request = tool.Request(method, grid or random or optuna or [], trials, seeds, metric)
    raise typer.Exit(tool.sweep(load.recipe(recipe, overrides), profile, ranks, request, Console(stderr=True)))


COMMANDS = (run, sweep, submit)
