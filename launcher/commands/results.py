"""Commands for what a run has learned, and from what."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from launcher.tools import command_exit
from launcher.tools import command_options as options

ReportFile = Annotated[
    Path | None,
    typer.Option(
        "--to", metavar="FILE", help="The page (default: RUN/report/index.html; of several runs report/index.html)."
    ),
]


class _Side(StrEnum):
    """Sides of the data that can be evaluated."""

    validation = "validation"
    test = "test"


Split = Annotated[_Side, typer.Option("--split", metavar="SIDE", help="validation or test (see data.test).")]
SeenStep = Annotated[int, typer.Argument(metavar="STEP", min=1, help="A step of the run, from 1.")]
OtherRun = Annotated[str, typer.Argument(metavar="OTHER", help="The run to compare it with.")]
Replay = Annotated[bool, typer.Option("--replay", help="Train this step again on one CPU process, and compare.")]
SampleLimit = Annotated[int, typer.Option("--limit", min=0, help="Show at most so many samples.")]


def evaluate(
    run: options.RunFolder,
    checkpoint: options.Checkpoint = "latest",
    split: Split = _Side.validation,
    ranks: options.Ranks = None,
    json: options.Json = False,
    trust: options.Trust = None,
) -> None:
    """Compute the metrics of a checkpoint on validation or test data, with a report in RUN/report."""
    from launcher.tools import evaluate as tool

    command_exit.leave(tool.evaluate(run, options.checkpoint(checkpoint), ranks, json, Console(), split.value))


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
    from launcher.tools.prediction import predict as tool

    tool.predict(run, options.checkpoint(checkpoint), data, to, Console(stderr=True), keep, top_k)


def compare(runs: options.RunFolders, sort: options.SortMetric = None, csv: options.Csv = False) -> None:
    """Compare runs: keys in which they differ, first, last and best evaluation, and the baseline."""
    from launcher.tools import compare as tool

    tool.compare(runs, Console(), sort, csv)


def report(runs: options.RunFolders, to: ReportFile = None) -> None:
    """Write a page about runs: curves, where the time went, evaluations and confusions, with pictures beside it."""
    from launcher.tools.report import report as tool

    tool.report(runs, to, Console())


def seen(
    run: options.RunFolder,
    step: SeenStep,
    replay: Replay = False,
    limit: SampleLimit = 10,
    json: options.Json = False,
    trust: options.Trust = None,
) -> None:
    """Show the samples of a step, with the rows of the source that they come from, and check the run's record."""
    from launcher.tools.seen import seen as tool

    raise typer.Exit(tool.seen(run, step, replay, limit, json))


def diff(run: options.RunFolder, other: OtherRun, json: options.Json = False, trust: options.Trust = None) -> None:
    """Compare two runs step by step: where they differ first, and why. Exits with 1 if they do, beyond rounding."""
    from launcher.tools.diff import diff as tool

    raise typer.Exit(tool.diff(run, other, json))


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
    from launcher.tools.export import export as tool
    from launcher.tools.export.compression import CompressionOptions

    compress = CompressionOptions(prune, quantize is not None, format is options.ExportFormat.onnx)
    chosen = options.checkpoint(checkpoint)
    print(tool.export(run, chosen, to, shard_size, Console(stderr=True), compress, benchmark))


COMMANDS = (evaluate, predict, compare, report, export, seen, diff)
