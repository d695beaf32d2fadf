"""The commands. For their exit codes (0, 1, 2, 69 and 75) see launcher.distributed.exit_codes."""

from pathlib import Path

import typer
from rich.console import Console

from launcher.distributed import logs, output_streams
from launcher.tools import command_exit
from launcher.tools import command_options as options

app = typer.Typer(
    cls=options.Group,
    help="A distributed training launcher for encoders. The global batch is the contract: where and how a recipe runs "
    "never changes what it learns.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def _program(version: options.Version = False, verbose: options.Verbose = False) -> None:
    """Options of the program itself."""
    if verbose:
        logs.set_verbose()


@app.command()
def plan(
    recipe: options.RecipeFile,
    overrides: options.Overrides = None,
    cluster: options.ClusterFile = "local",
    ranks: options.Ranks = None,
    trace: options.Traced = False,
    json: options.Json = False,
    trust: options.Trust = None,
) -> None:
    """Show every number and every mistake of a run, and start nothing."""
    from launcher.config import load, plugins
    from launcher.prepare import run_setup
    from launcher.tools import memory_trace, tables

    profile, overrides = load.profile(cluster, overrides or [])
    profile = plugins.scheduler(profile.scheduler).complete(profile)
    loaded = load.recipe(recipe, overrides)
    decided = run_setup.dry_run(loaded, profile, ranks)
    if trace:
        decided = memory_trace.traced(decided, run_setup.pinned(loaded))
    if json:
        print(output_streams.as_json(decided.model_dump_json(indent=1)))
    else:
        tables.print_plan(decided, Console())


@app.command()
def prepare(
    recipe: options.RecipeFile,
    overrides: options.Overrides = None,
    processes: options.Processes = None,
    to: options.BundleToMake = None,
    trust: options.Trust = None,
) -> None:
    """Read, tokenise and store the recipe's data once; download its model."""
    from launcher.config import load
    from launcher.prepare import run_setup
    from launcher.tools import tables

    folder, facts = run_setup.prepare(load.recipe(recipe, overrides or []), processes, to)
    tables.print_facts(facts, folder, Console())


@app.command()
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
    """Plan, prepare and train here, once for each seed. A run folder with a checkpoint is resumed."""
    from launcher.config import load
    from launcher.tools import run_command, seeds

    file, overrides = command_exit.recipe_of(bundle, recipe, overrides or [])
    restarts = [] if max_restarts is None else [f"cluster.max_restarts={max_restarts}"]
    profile, overrides = load.profile(cluster, overrides, *restarts)
    run_command.check_starts_here(file, overrides, profile)
    loaded = load.recipe(file, overrides)
    train = seeds.train if loaded.value.seeds > 1 else run_command.train
    command_exit.leave(train(loaded, profile, ranks, resume, via.value))


@app.command()
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


@app.command()
def evaluate(
    run: options.RunFolder,
    checkpoint: options.Checkpoint = "latest",
    ranks: options.Ranks = None,
    json: options.Json = False,
    trust: options.Trust = None,
) -> None:
    """Compute the metrics of a checkpoint on validation data, with a report in RUN/report."""
    from launcher.tools import evaluate as tool

    command_exit.leave(tool.evaluate(run, options.checkpoint(checkpoint), ranks, json, Console()))


@app.command()
def predict(
    run: options.RunFolder,
    data: options.DataSource,
    to: options.PredictionsFile = None,
    checkpoint: options.Checkpoint = "best",
    keep: options.KeptColumns = None,
    top_k: options.TopK = None,
    trust: options.Trust = None,
) -> None:
    """Predict for new rows: a JSON object, or a row of a table, for each, in their order."""
    from launcher.tools import predict as tool

    tool.predict(run, options.checkpoint(checkpoint), data, to, Console(stderr=True), keep, top_k)


@app.command()
def debug(
    recipe: options.RecipeFile,
    overrides: options.Overrides = None,
    steps: options.DebugSteps = None,
    overfit: options.Overfit = False,
    show: options.ShownSamples = 3,
    trust: options.Trust = None,
) -> None:
    """Train some steps in this process, where breakpoint() works, after showing the first batch."""
    from launcher.tools import debug as tool

    code = tool.debug(recipe, overrides or [], steps or (200 if overfit else 3), overfit, show, Console())
    raise typer.Exit(code)


@app.command()
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


@app.command()
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


@app.command()
def compare(runs: options.RunFolders, sort: options.SortMetric = None, csv: options.Csv = False) -> None:
    """Compare runs: keys in which they differ, first, last and best evaluation, and the baseline."""
    from launcher.tools import compare as tool

    tool.compare(runs, Console(), sort, csv)


@app.command()
def export(
    run: options.RunFolder,
    checkpoint: options.Checkpoint = "best",
    to: options.ExportFolder = None,
    shard_size: options.ShardSize = "1GiB",
    prune: options.Prune = None,
    quantize: options.Quantize = None,
    format: options.Format = options.ExportFormat.transformers,
    benchmark: options.Benchmark = True,
    trust: options.Trust = None,
) -> None:
    """Export a checkpoint for plain transformers; or pruned, quantised or as ONNX, and what that costs."""
    from launcher.tools import export as tool
    from launcher.tools.compression import CompressionOptions

    compress = CompressionOptions(prune, quantize is not None, format is options.ExportFormat.onnx)
    chosen = options.checkpoint(checkpoint)
    print(tool.export(run, chosen, to, shard_size, Console(stderr=True), compress, benchmark))


@app.command()
def status(runs: options.AnyRunFolders = None, json: options.Json = False, trust: options.Trust = None) -> None:
    """Show the state and progress of runs; for one run, the history of its job."""
    from launcher.tools import status as tool

    tool.status(runs or [], json, Console())


@app.command()
def stop(run: options.RunningRun, wait: options.Wait = True, trust: options.Trust = None) -> None:
    """Let a run save and leave, wherever it trains, and wait until it has. A job that waits in a queue is cancelled."""
    from launcher.tools import stop as tool

    raise typer.Exit(tool.stop(run, wait, Console()))


@app.command()
def cancel(run: options.SubmittedRun, trust: options.Trust = None) -> None:
    """Cancel a run's job, waiting or running. A running one saves a checkpoint first."""
    from launcher.tools import cancel as tool

    tool.cancel(run, Console())


@app.command()
def recipes(copy: options.CopiedRecipe = None, to: options.CopyTarget = Path()) -> None:
    """List the shipped recipes, or copy one to start from."""
    from launcher.tools import recipes as tool

    if copy is None:
        tool.show(Console())
    else:
        print(tool.copy(copy, to))


for _registered in app.registered_commands:
    _registered.cls = options.Command


def main() -> None:
    """Run the command that sys.argv names, and exit with its code."""
    command_exit.execute(app)


if __name__ == "__main__":
    main()
