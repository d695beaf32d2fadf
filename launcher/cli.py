"""The commands. Exit codes: 0 done; 1 the run failed; 2 the input is wrong; 75 stopped on request with a checkpoint."""

import itertools
import os
import re
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
from rich.console import Console

from launcher import __version__
from launcher.config.atomic_files import check_current_folder
from launcher.config.errors import UserError, of_path, shown
from launcher.distributed import output_streams
from launcher.distributed.signals import STOPPED, StopRequested, say

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster


class _Command(typer.core.TyperCommand):
    """A command whose help names no type beside an option that takes no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


class _Group(typer.core.TyperGroup):
    """Likewise."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


def _without_types(params: list[Any]) -> list[Any]:
    for param in params:
        if isinstance(param, typer.core.TyperOption) and param.is_flag and param.metavar is None:
            param.metavar = ""
    return params


app = typer.Typer(
    cls=_Group,
    help="A distributed training launcher for encoders. The global batch is the contract: where and how a recipe runs "
    "never changes what it learns.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"launcher {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What every command takes."""


def _trust(names: list[str] | None) -> list[str]:
    from launcher.config import kinds

    kinds.trust(names or [])
    return names or []


RecipeFile = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped one.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Overrides: key.path=value.")]
Ranks = Annotated[int | None, typer.Option("--ranks", min=1, help="Ranks to start (default: one a device).")]
Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust", metavar="KIND", callback=_trust,
        help="Run this kind, function or model's code, which a run or a bundle names (repeatable).",
    ),
]  # fmt: skip
ClusterFile = Annotated[str, typer.Option("--cluster", help="A cluster profile: a file, or the name of a shipped one.")]


_UsageError: Any = typer.BadParameter.__mro__[1]
"""What a call with wrong options raises: click's, or the copy of it that newer versions of typer bring."""

_KEY = re.compile(r"--(?P<key>\w+(?:\.\w+)+|seed|seeds|name)(?:=(?P<value>.*))?", re.DOTALL)
"""A key of a recipe or a profile, written like an option."""


class Via(StrEnum):
    elastic = "elastic"
    torchrun = "torchrun"
    accelerate = "accelerate"


class Quantize(StrEnum):
    int8 = "int8"


class Format(StrEnum):
    transformers = "transformers"
    onnx = "onnx"


@app.command()
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    cluster: ClusterFile = "local",
    ranks: Ranks = None,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    trust: Trust = None,
) -> None:
    """Decide every number, find every mistake, start nothing."""
    from launcher.prepare import run_setup
    from launcher.tools import tables

    profile, overrides = _profile(cluster, overrides)
    made = run_setup.look(recipe, overrides, profile, ranks)
    if json:
        print(output_streams.as_json(made.model_dump_json(indent=1)))
    else:
        tables.plan(made, Console())


@app.command()
def prepare(
    recipe: RecipeFile,
    overrides: Overrides = None,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="Processes that tokenise (default: one a processor).")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="A bundle to make: a folder for a cluster without internet.")
    ] = None,
    trust: Trust = None,
) -> None:
    """Read, tokenise and store the recipe's data once; bring its model."""
    from launcher.prepare import run_setup
    from launcher.tools import tables

    folder, known = run_setup.prepare(recipe, overrides or [], processes, to)
    tables.facts(known, folder, Console())


@app.command()
def run(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped one.")
    ] = None,
    overrides: Overrides = None,
    cluster: ClusterFile = "local",
    ranks: Ranks = None,
    resume: Annotated[bool, typer.Option("--resume", help="Refuse to start from the beginning.")] = False,
    via: Annotated[
        Via, typer.Option("--via", metavar="STARTER", help="elastic, torchrun or accelerate.")
    ] = Via.elastic,
    max_restarts: Annotated[int | None, typer.Option("--max-restarts", min=0, help="Restarts after a failure.")] = None,
    bundle: Annotated[Path | None, typer.Option("--from", help="A bundle, in the place of RECIPE.")] = None,
    trust: Trust = None,
) -> None:
    """Plan, prepare and train here, once for each of the seeds. A run folder with a checkpoint is gone on with."""
    from launcher.tools import seeds

    recipe, overrides = _of_bundle(bundle, recipe, overrides or [])
    restarts = [] if max_restarts is None else [f"cluster.max_restarts={max_restarts}"]
    profile, overrides = _profile(cluster, overrides, restarts)
    _leave(seeds.run(recipe, overrides, profile, ranks, resume, via.value))


@app.command()
def submit(
    recipe: RecipeFile,
    overrides: Overrides = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="A profile with a queue: a file, or the name of a shipped one.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the job; write and submit nothing.")] = False,
    max_requeues: Annotated[
        int | None, typer.Option("--max-requeues", min=0, help="How often the job may start again.")
    ] = None,
    grid: Annotated[
        Path | None, typer.Option("--grid", help="A YAML of keys and the values they take: a job array of runs.")
    ] = None,
    trust: Trust = None,
) -> None:
    """Plan, prepare and submit the run to a queue; the job requeues itself and goes on until all steps are done."""
    from launcher.tools import submit as tool

    if cluster is None:
        raise tool.missing_cluster()
    most = [] if max_requeues is None else [f"slurm.max_requeues={max_requeues}"]
    profile, overrides = _profile(cluster, overrides, most)
    tool.submit(recipe, overrides, profile, grid, dry_run, Console(stderr=True))


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart-pretrain.")],
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="latest, best, or a step.")] = "latest",
    ranks: Ranks = None,
    json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
    trust: Trust = None,
) -> None:
    """The metrics of a checkpoint on its run's validation data, with a report in RUN/report."""
    from launcher.tools import evaluate as tool

    _leave(tool.evaluate(run, _which(checkpoint), ranks, json, Console()))


@app.command()
def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart-finetune.")],
    data: Annotated[
        str, typer.Option("--data", help="A .jsonl, .csv, .tsv, .parquet or .txt, a folder of images, or {kind: ...}.")
    ],
    to: Annotated[
        Path | None, typer.Option("--to", help="A .jsonl, .csv or .tsv to make (default: print lines of JSON).")
    ] = None,
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="best, latest, or a step.")] = "best",
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="COLUMNS", help="The row's columns to keep: id,text or all (default: inputs)."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="List so many classes, or tokens for a mask, with scores.")
    ] = None,
    trust: Trust = None,
) -> None:
    """Predict for new rows: a JSON object, or a row of a table, for each, in their order."""
    from launcher.tools import predict as tool

    tool.predict(run, _which(checkpoint), data, to, Console(stderr=True), keep, top_k)


@app.command()
def debug(
    recipe: RecipeFile,
    overrides: Overrides = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps to train (3, or 200 with --overfit).")
    ] = None,
    overfit: Annotated[
        bool, typer.Option("--overfit", help="Train on the first batch alone, until it is learnt.")
    ] = False,
    show: Annotated[int, typer.Option("--show", min=0, help="Samples of the first batch to print.")] = 3,
    trust: Trust = None,
) -> None:
    """One process on one device, this one: breakpoint() works. Shows the first batch, then trains some steps."""
    from launcher.tools import debug as tool

    code = tool.debug(recipe, overrides or [], steps or (200 if overfit else 3), overfit, show, Console())
    raise typer.Exit(code)


@app.command()
def parity(
    recipe: RecipeFile,
    overrides: Overrides = None,
    cluster: ClusterFile = "local",
    strategies: Annotated[
        str | None,
        typer.Option("--strategies", help="Layouts, such as ddp,fsdp:shard=grad_op,deepspeed:zero=3 (default: all)."),
    ] = None,
    ranks: Annotated[str, typer.Option("--ranks", metavar="N[,N...]", help="Numbers of ranks.")] = "2,4",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps under each layout.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    trust: Trust = None,
) -> None:
    """The same steps under each layout, beside one process. Exit 1 where they differ."""
    from launcher.config import load
    from launcher.tools import parity as tool

    if not all(word.strip().isdigit() and int(word) > 0 for word in ranks.split(",")):
        raise UserError(f"--ranks {ranks}: numbers with commas between them, such as 2,4")
    (profile, overrides), waiting = _profile(cluster, overrides), Console(stderr=True)
    rows = []
    with waiting.status("one process"):
        for row in tool.parity(recipe, overrides, strategies, [int(n) for n in ranks.split(",")], steps, profile):
            rows.append(row)
            told = "same" if row.ok else row.wrong or "differs"
            waiting.print(f"{row.layout} on {row.ranks}: {told}", highlight=False, markup=False, soft_wrap=True)
    if json:
        print(output_streams.as_json(tool.as_json(rows)))
    else:
        precision = load.recipe(recipe, overrides).value.train.precision
        tool.show(rows, precision, Console())
    raise typer.Exit(0 if all(row.ok for row in rows) else 1)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run folders.")],
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="METRIC", help="Order the runs by their best value of it.")
    ] = None,
    csv: Annotated[
        bool, typer.Option("--csv", help="Print the table as CSV, with all keys in which the runs differ.")
    ] = False,
) -> None:
    """Runs side by side: the keys in which they differ, first and last evaluation, the best of all, the baseline."""
    from launcher.tools import compare as tool

    tool.compare(runs, Console(), sort, csv)


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart-pretrain.")],
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="best, latest, or a step.")] = "best",
    to: Annotated[Path | None, typer.Option("--to", help="A folder to make (default: RUN/export...).")] = None,
    shard_size: Annotated[str, typer.Option("--shard-size", help="A file of weights is at most so large.")] = "1GiB",
    prune: Annotated[
        float | None, typer.Option("--prune", help="Make this share of the matrices' entries zero, such as 0.3.")
    ] = None,
    quantize: Annotated[Quantize | None, typer.Option("--quantize", help="int8: weights of linear layers.")] = None,
    format: Annotated[Format, typer.Option("--format", help="What the folder is for.")] = Format.transformers,
    benchmark: Annotated[
        bool, typer.Option(help="Measure speed and metrics of a pruned, quantised or ONNX export.")
    ] = True,
    trust: Trust = None,
) -> None:
    """A checkpoint as a folder that plain transformers loads; or pruned, quantised, as ONNX, and what that costs."""
    from launcher.tools import compression

    wanted = compression.CompressionOptions(prune, quantize is not None, format is Format.onnx)
    print(compression.export(run, _which(checkpoint), to, shard_size, wanted, Console(stderr=True), benchmark))


@app.command()
def status(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", help="Runs, such as runs/quickstart-pretrain (all here).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what is known as JSON.")] = False,
    trust: Trust = None,
) -> None:
    """What runs, how far, how well; of one run the history of its job."""
    from launcher.tools import status as tool

    tool.status(runs or [], json, Console())


@app.command()
def cancel(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run that was submitted, such as runs/quickstart-pretrain.")
    ],
    trust: Trust = None,
) -> None:
    """End a run's job, waiting or running, for good. A running one saves a checkpoint first."""
    from launcher.tools import cancel as tool

    tool.cancel(run, Console())


@app.command()
def recipes(
    copy: Annotated[str | None, typer.Option("--copy", metavar="NAME", help="Copy this one here.")] = None,
    to: Annotated[Path, typer.Option("--to", help="The file or folder to copy to.")] = Path(),
) -> None:
    """List the shipped recipes, or copy one to start from."""
    from launcher.tools import recipes as tool

    if copy is None:
        tool.show(Console())
    else:
        print(tool.copy(copy, to))


for _registered in app.registered_commands:
    _registered.cls = _Command


def _profile(cluster: str, overrides: list[str] | None, more: Sequence[str] = ()) -> tuple["Cluster", list[str]]:
    """The cluster, with those of the overrides that begin with `cluster.`, and the others, which are the recipe's. What
    is prepared for it goes where all of its nodes see it."""
    from launcher.config import load

    of_recipe, of_cluster = load.parted(overrides or [])
    profile = load.cluster(cluster, [*of_cluster, *more]).value
    if profile.scratch.shared is not None and Path(profile.scratch.shared).is_dir():
        os.environ.setdefault("LAUNCHER_CACHE", profile.scratch.shared)
    return profile, of_recipe


def _of_bundle(bundle: Path | None, recipe: str | None, overrides: list[str]) -> tuple[str, list[str]]:
    """The recipe to run and its overrides. From here on a bundle is the cache, for the ranks too."""
    if bundle is None:
        if recipe is None:
            raise UserError("RECIPE: missing (a recipe file, the name of a shipped one, or --from BUNDLE)")
        return recipe, overrides
    if recipe is not None and "=" not in recipe:
        raise UserError(f"{recipe}: a bundle has a recipe of its own (leave it out; key=value overrides it)")
    from launcher.prepare import bundle as bundles

    file = bundles.recipe_of(bundle)
    os.environ["LAUNCHER_CACHE"] = str(bundle.absolute())
    return str(file), [*([recipe] if recipe else []), *overrides]


def _which(checkpoint: str) -> str | int:
    """A checkpoint by its step, or by a word."""
    return int(checkpoint) if checkpoint.isdigit() else checkpoint


def _leave(outcome: object) -> None:
    from launcher.launch.execute import Outcome

    assert isinstance(outcome, Outcome)
    for problem in outcome.problems:
        print(problem, file=sys.stderr)
    raise typer.Exit(outcome.code)


def _check_words(words: Sequence[str]) -> None:
    """Raises UserError for a key of the recipe that is written like an option."""
    for number, word in enumerate(itertools.takewhile(lambda word: word != "--", words)):
        if found := _KEY.fullmatch(word):
            after = words[number + 1] if number + 1 < len(words) and found["value"] is None else None
            value = found["value"] or (after if after is not None and not after.startswith("-") else "VALUE")
            what = f"no such option; a key is changed without dashes: {found['key']}={value}"
            raise UserError(f"{shown(word)}: {shown(what)}")


def _command_path(error: Any) -> str:
    return error.ctx.command_path if error.ctx is not None else "launcher"


def _guard() -> None:
    """In a run folder or a bundle, no process that is started looks for modules in the current folder."""
    from launcher.config import code_origin

    if code_origin.artefact(Path.cwd()):
        os.environ["PYTHONSAFEPATH"] = "1"


def _call() -> int:
    """The command, to the last line that it prints. Returns its exit code. Raises UserError for options and arguments
    that it does not take, OSError where a line cannot be printed."""
    try:
        return int(app(prog_name="launcher", standalone_mode=False) or 0)
    except _UsageError as error:
        if not (message := error.format_message()):  # help was printed: no command is named
            return 2
        raise UserError(
            f"{_command_path(error)}: {message.replace('Value error, ', '').rstrip('.')} (--help)"
        ) from None
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            output_streams.drop_output()
            raise


def main() -> None:
    try:
        check_current_folder()
        _guard()
        _check_words(sys.argv[1:])
        sys.exit(_call())
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except StopRequested as error:
        say(str(error))
        sys.exit(STOPPED)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # as under `| head`
        sys.exit(1)
    except Exception as error:
        from launcher.storage import disk_full

        full = str(error) if isinstance(error, disk_full.DiskFull) else disk_full.unexpected(error)
        if full is None and (line := of_path(error)):
            print(line, file=sys.stderr)
            sys.exit(2)
        if full is None:
            raise
        print(full, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
