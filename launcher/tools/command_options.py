"""Arguments and options of the commands, and the format of their help."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from launcher.tools import completion


class Command(typer.core.TyperCommand):
    """A command whose help shows no type for options without a value."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


class Group(typer.core.TyperGroup):
    """The program, with the same change of its help."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


def _without_types(params: list[Any]) -> list[Any]:
    for param in params:
        if isinstance(param, typer.core.TyperOption) and param.is_flag and param.metavar is None:
            param.metavar = ""
    return params


def _print_version(wanted: bool) -> None:
    from launcher import __version__

    if wanted:
        print(f"launcher {__version__}")
        raise typer.Exit


def _trust(names: list[str] | None) -> list[str]:
    from launcher.config import trust

    trust.trust(names or [])
    return names or []


def checkpoint(name: str) -> str | int:
    """Return the value of a checkpoint option: a step as a number, or latest or best."""
    return int(name) if name.isdigit() else name


class Starter(StrEnum):
    """Programs that start the ranks."""

    elastic = "elastic"
    torchrun = "torchrun"
    accelerate = "accelerate"


class Quantization(StrEnum):
    """Number formats of exported weights."""

    int8 = "int8"


class ExportFormat(StrEnum):
    """Formats of an exported model."""

    transformers = "transformers"
    onnx = "onnx"


def _run(what: str) -> Any:
    """Return the argument that names a run, completed by the runs that are here."""
    return typer.Argument(metavar="RUN", help=what, autocompletion=completion.runs)


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Log what the launcher does.")]
RecipeFile = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A recipe file, or the name of a shipped one.", autocompletion=completion.recipes
    ),
]
OptionalRecipeFile = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE", help="A recipe file, or the name of a shipped one.", autocompletion=completion.recipes
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Overrides: key.path=value.", autocompletion=completion.overrides),
]
ClusterFile = Annotated[
    str,
    typer.Option(
        "--cluster", help="A cluster profile: a file, or the name of a shipped one.", autocompletion=completion.profiles
    ),
]
QueueFile = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="A cluster profile with a queue: a file, or the name of a shipped one.",
        autocompletion=completion.profiles,
    ),
]
RunFolder = Annotated[str, _run("A run folder, such as runs/quickstart-pretrain.")]
RunFolders = Annotated[list[str], _run("Run folders.")]
AnyRunFolders = Annotated[list[str] | None, _run("Runs, such as runs/quickstart-pretrain (all here).")]
Ranks = Annotated[int | None, typer.Option("--ranks", min=1, help="Ranks to start (default: one a device).")]
RankCounts = Annotated[str, typer.Option("--ranks", metavar="N[,N...]", help="Numbers of ranks.")]
Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust", metavar="KIND", callback=_trust,
        help="Run this kind, function or model's code, which a run or a bundle names (repeatable).",
    ),
]  # fmt: skip
Traced = Annotated[
    bool, typer.Option("--trace", help="Build and step one rank on fake tensors, and show its memory by purpose.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Checkpoint = Annotated[
    str, typer.Option("--checkpoint", help="latest, best, or a step.", autocompletion=completion.checkpoints)
]

Processes = Annotated[
    int | None, typer.Option("--processes", min=1, help="Processes that tokenise (default: one a processor).")
]
BundleToMake = Annotated[
    Path | None, typer.Option("--to", help="A bundle to make: a folder for a cluster without internet.")
]
Bundle = Annotated[Path | None, typer.Option("--from", help="A bundle, in the place of RECIPE.")]

Resume = Annotated[bool, typer.Option("--resume", help="Refuse to start from the beginning.")]
Via = Annotated[Starter, typer.Option("--via", metavar="STARTER", help="elastic, torchrun or accelerate.")]
MaxRestarts = Annotated[int | None, typer.Option("--max-restarts", min=0, help="Restarts after a failure.")]
Untuned = Annotated[bool, typer.Option("--untuned", help="Ignore the settings that `launcher tune` found.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the batch script; write and submit nothing.")]
MaxRequeues = Annotated[int | None, typer.Option("--max-requeues", min=0, help="How often the job may start again.")]
GridFile = Annotated[
    Path | None, typer.Option("--grid", help="A YAML of keys and the values they take: a job array of runs.")
]

DataSource = Annotated[
    str, typer.Option("--data", help="A .jsonl, .csv, .tsv, .parquet or .txt, a folder of images, or {kind: ...}.")
]
PredictionsFile = Annotated[
    Path | None, typer.Option("--to", help="A .jsonl, .csv or .tsv to make (default: print lines of JSON).")
]
KeptColumns = Annotated[
    str | None,
    typer.Option("--keep", metavar="COLUMNS", help="The row's columns to keep: id,text or all (default: inputs)."),
]
TopK = Annotated[
    int | None, typer.Option("--top-k", min=1, help="List so many classes, or tokens for a mask, with scores.")
]

DebugSteps = Annotated[int | None, typer.Option("--steps", min=1, help="Steps to train (3, or 200 with --overfit).")]
Overfit = Annotated[bool, typer.Option("--overfit", help="Train on the first batch alone, until it is learnt.")]
ShownSamples = Annotated[int, typer.Option("--show", min=0, help="Samples of the first batch to print.")]
Strategies = Annotated[
    str | None,
    typer.Option("--strategies", help="Layouts, such as ddp,fsdp:shard=grad_op,deepspeed:zero=3 (default: all)."),
]
ParitySteps = Annotated[int, typer.Option("--steps", min=1, help="Steps under each layout.")]
SortMetric = Annotated[
    str | None, typer.Option("--sort", metavar="METRIC", help="Order the runs by their best value of it.")
]
Csv = Annotated[bool, typer.Option("--csv", help="Print the table as CSV, with all keys in which the runs differ.")]

ExportFolder = Annotated[Path | None, typer.Option("--to", help="A folder to make (default: RUN/export...).")]
ShardSize = Annotated[str, typer.Option("--shard-size", help="A file of weights is at most so large.")]
Prune = Annotated[
    float | None, typer.Option("--prune", help="Make this share of the matrices' entries zero, such as 0.3.")
]
Quantize = Annotated[Quantization | None, typer.Option("--quantize", help="int8: weights of linear layers.")]
Format = Annotated[ExportFormat, typer.Option("--format", help="What the folder is for.")]
Benchmark = Annotated[bool, typer.Option(help="Measure speed and metrics of a pruned, quantised or ONNX export.")]

Nodes = Annotated[int | None, typer.Option("--nodes", min=1, help="Nodes of the job (default: those of the profile).")]
BetweenFailures = Annotated[
    str | None,
    typer.Option("--mtbf", metavar="DURATION", help="Mean time between failures of one node, such as 5000h."),
]
SimulatedInterval = Annotated[
    str | None,
    typer.Option("--checkpoint-every", metavar="INTERVAL", help="Steps, or a duration (default: the recipe's)."),
]
Spares = Annotated[int, typer.Option("--spares", min=0, max=10_000, help="Nodes in reserve.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the simulated failures.")]
Assumed = Annotated[
    list[str] | None,
    typer.Option("--assume", metavar="NAME=DURATION", help="A cost, such as start=3m or save=1.5s (repeatable)."),
]

SubmittedRun = Annotated[str, _run("A run that was submitted, such as runs/quickstart-pretrain.")]
RunningRun = Annotated[str, _run("A run that trains, such as runs/quickstart-pretrain.")]
Wait = Annotated[bool, typer.Option(help="Wait until the run has left, and say which step is saved.")]
CopiedRecipe = Annotated[
    str | None,
    typer.Option("--copy", metavar="NAME", help="Copy this one here.", autocompletion=completion.shipped_recipes),
]
CopyTarget = Annotated[Path, typer.Option("--to", help="The file or folder to copy to.")]
