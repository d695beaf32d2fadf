"""Commands that look before training starts, and start no run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from launcher.distributed import output_streams
from launcher.tools import command_options as options

LayerMemory = Annotated[bool, typer.Option("--memory", help="Show the memory of each layer after the steps.")]
GradientCheck = Annotated[
    bool, typer.Option("--check-gradients", help="Compare some gradients with finite differences, in float64.")
]
Trace = Annotated[
    Path | None, typer.Option("--profile", help="Write a trace of the steps to this .json, and list what costs most.")
]
GpuKindName = Annotated[
    str | None,
    typer.Option("--gpu", metavar="KIND", help="V100, A100, A100-40GB, L40S, H100, H200, B200 or MI300X."),
]
DeviceCounts = Annotated[str, typer.Option("--devices", metavar="N[,N...]", help="Numbers of devices.")]
Budget = Annotated[
    str, typer.Option("--budget", metavar="DURATION", help="Seconds of the search, or a duration such as 2m.")
]
MostSettings = Annotated[
    int | None, typer.Option("--settings", min=1, help="Maximum number of settings (default: as the budget allows).")
]
PostMortem = Annotated[bool, typer.Option("--post-mortem", help="Start pdb where an exception is raised.")]


def plan(
    recipe: options.RecipeFile,
    overrides: options.Overrides = None,
    cluster: options.ClusterFile = "local",
    ranks: options.Ranks = None,
    trace: options.Traced = False,
    untuned: options.Untuned = False,
    json: options.Json = False,
    trust: options.Trust = None,
) -> None:
    """Show every number and every mistake of a run, and start nothing."""
    from launcher.config import load, plugins
    from launcher.prepare import run_setup
    from launcher.tools import folds, tables
    from launcher.tools.memory import memory_trace
    from launcher.tools.tune import tuned_file

    profile, overrides = load.profile(cluster, overrides or [])
    profile = plugins.scheduler(profile.scheduler).complete(profile)
    loaded = tuned_file.applied(load.recipe(recipe, overrides), profile, ranks, untuned)
    first = folds.each(loaded)[0]
    decided = folds.noted(run_setup.dry_run(first, profile, ranks), loaded)
    if trace:
        decided = memory_trace.traced(decided, run_setup.pinned(first))
    if json:
        print(output_streams.as_json(decided.model_dump_json(indent=1)))
    else:
        tables.print_plan(decided, Console())


def prepare(
    recipe: options.RecipeFile,
    overrides: options.Overrides = None,
    processes: options.Processes = None,
    to: options.BundleToMake = None,
    trust: options.Trust = None,
) -> None:
    """Read, tokenise and store the recipe's data once; download its model."""
    from launcher.config import load
    from launcher.config.errors import UserError
    from launcher.prepare import run_setup
    from launcher.tools import folds, tables

    runs = folds.each(load.recipe(recipe, overrides or []))
    if to is not None and len(runs) > 1:
        raise UserError(f"--to {to}: a bundle has the data of one run, not of {len(runs)} folds")
    for one in runs:
        folder, facts = run_setup.prepare(one, processes, to)
        tables.print_facts(facts, folder, Console())


def debug(
    recipe: options.RecipeFile,
    overrides: options.Overrides = None,
    steps: options.DebugSteps = None,
    overfit: options.Overfit = False,
    show: options.ShownSamples = 3,
    memory: LayerMemory = False,
    check_gradients: GradientCheck = False,
    profile: Trace = None,
    post_mortem: PostMortem = False,
    trust: options.Trust = None,
) -> None:
    """Train some steps in this process, where breakpoint() works, after showing the first batch."""
    from launcher.tools.debug import debug as tool

    count = steps or (200 if overfit else 3)
    session = tool.Session(count, overfit, show, memory, check_gradients, profile, post_mortem)
    raise typer.Exit(tool.debug(recipe, overrides or [], session, Console()))


def parity(
    recipe: options.RecipeFile,
    overrides: options.Overrides = None,
    cluster: options.ClusterFile = "local",
    strategies: options.Strategies = None,
    ranks: options.RankCounts = "2,4",
    steps: options.ParitySteps = 5,
    json: options.Json = False,
    trust: options.Trust = None,
) -> None:
    """Compare the first steps of each layout with a single process. Exit 1 where they differ."""
    from launcher.config import load
    from launcher.tools import parity as tool

    counts = tool.rank_counts(ranks)
    profile, overrides = load.profile(cluster, overrides or [])
    loaded = tool.load_recipe(recipe, overrides)
    raise typer.Exit(tool.report(loaded, strategies, counts, steps, profile, json))


def tune(
    recipe: options.RecipeFile,
    overrides: options.Overrides = None,
    cluster: options.ClusterFile = "local",
    ranks: options.Ranks = None,
    budget: Budget = "2m",
    settings: MostSettings = None,
    json: options.Json = False,
    trust: options.Trust = None,
) -> None:
    """Find the fastest setting on these devices for later runs. The trajectory stays the same."""
    from launcher.config import load
    from launcher.tools.tune import tune as tool

    allowed = tool.budget(budget)
    profile, overrides = load.profile(cluster, overrides or [])
    found = tool.tune(load.recipe(recipe, overrides), profile, ranks, allowed, Console(stderr=True), settings)
    tool.report(found, json)


def simulate(
    recipe: options.RecipeFile,
    overrides: options.Overrides = None,
    cluster: options.ClusterFile = "local",
    nodes: options.Nodes = None,
    mtbf: options.BetweenFailures = None,
    checkpoint_every: options.SimulatedInterval = None,
    spares: options.Spares = 0,
    assume: options.Assumed = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    trust: options.Trust = None,
) -> None:
    """Simulate the run on many nodes that fail: goodput, the best checkpoint interval, where time goes."""
    from launcher.config import load
    from launcher.tools import simulate as tool

    profile, overrides = load.profile(cluster, overrides or [])
    asked = tool.question(profile, nodes, mtbf, checkpoint_every, spares, seed, assume or [])
    tool.simulate(load.recipe(recipe, overrides), profile, asked, json, Console())


def scaling(
    recipe: options.RecipeFile,
    overrides: options.Overrides = None,
    cluster: options.ClusterFile = "local",
    gpu: GpuKindName = None,
    devices: DeviceCounts = "8,16,32,64,128,256,512",
    json: options.Json = False,
    trust: options.Trust = None,
) -> None:
    """Predict the time of a step on many devices, which need not be here: what it takes, and what bounds it."""
    from launcher.config import load
    from launcher.tools import scaling as tool

    counts = tool.counts(devices)
    profile, overrides = load.profile(cluster, overrides or [])
    asked = tool.target(profile, gpu)
    tool.report(load.recipe(recipe, overrides), asked, counts, json, Console())


def doctor(
    overrides: options.Overrides = None,
    cluster: options.ClusterFile = "local",
    ranks: options.Ranks = None,
    json: options.Json = False,
) -> None:
    """Check the machines of a profile: software, devices, disks, network, ranks. Exit 1 if a check fails."""
    from json import dumps

    from launcher.config import load
    from launcher.config.errors import UserError
    from launcher.tools.doctor import doctor as tool
    from launcher.tools.doctor import report

    profile, of_recipe = load.profile(cluster, overrides or [])
    if of_recipe:
        raise UserError(f"{of_recipe[0]}: no key of the profile (such as cluster.nodes=2; doctor takes no recipe)")
    findings = report.collected(tool.steps(profile, ranks), Console(stderr=True))
    if json:
        print(output_streams.as_json(dumps(tool.as_json(profile, findings), indent=1)))
    else:
        report.show(findings, Console())
    raise typer.Exit(tool.exit_code(findings))


COMMANDS = (plan, doctor, prepare, debug, tune, parity, simulate, scaling)
