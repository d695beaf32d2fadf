"""Commands that start training, here or in a queue."""

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
    trust: options.Trust = None,
) -> None:
    """Plan, prepare and train here, once for each seed or fold. A run folder with a checkpoint is resumed."""
    from launcher.config import load
    from launcher.tools import folds, run_command, seeds

    file, overrides = command_exit.recipe_of(bundle, recipe, overrides or [])
    restarts = [] if max_restarts is None else [f"cluster.max_restarts={max_restarts}"]
    profile, overrides = load.profile(cluster, overrides, *restarts)
    run_command.check_starts_here(file, overrides, profile)
    loaded = load.recipe(file, overrides)
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
    trust: options.Trust = None,
) -> None:
    """Plan, prepare and submit the run to a queue. The job requeues itself until all steps are done."""
    from launcher.config import load
    from launcher.tools import submit as tool

    profile, overrides = tool.load_profile(cluster, overrides or [], max_requeues)
    tool.submit(load.recipe(recipe, overrides), profile, grid, dry_run, Console(stderr=True))


COMMANDS = (run, submit)
