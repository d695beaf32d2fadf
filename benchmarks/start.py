"""From the command to the end of the first optimiser step, beside accelerate launch with the Trainer, and torchrun.

BERT-mini on masked samples; all sides have the same weights and samples, and their data were prepared before. A side is
killed after its first step, whose losses have to agree.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks import _option_types, _training, _workplace, mlm
from benchmarks._training import TORCHRUN, Shared, Work
from benchmarks._turns import Job, Line
from benchmarks.pairs import Comparison, Measurement, Side, alternate

ACCELERATE = (
    "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--main_process_port", "0",
    "--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes",
)  # fmt: skip
"""Arguments of `accelerate launch` for several ranks. With `--cpu` it would start a single one; the peers choose
the CPU themselves."""
SIDES = {"accelerate launch, Trainer": ("trainer", ACCELERATE), "torchrun, plain loop": ("torch", TORCHRUN)}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ranks", type=_option_types.numbers, default="2,4", metavar="N,N", help="numbers of ranks (default: 2,4)"
    )
    parser.add_argument("--model", choices=mlm.MODELS, default="bert-mini")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")


def measure(options: argparse.Namespace) -> list[Comparison]:
    with _workplace.temporary_folder("start") as folder:
        return [_compared(_work(options, ranks), folder / f"{ranks}", options.pairs) for ranks in options.ranks]


def _work(options: argparse.Namespace, ranks: int) -> Work:
    training = argparse.Namespace(
        model=options.model, ranks=ranks, threads=1, turn=1, precision=options.precision, keys=""
    )
    work = mlm.work(training)
    title = f"{work.title.rpartition(', dropout')[0]}, no dropout"
    return replace(work, title=title, dropout=0.0, dry_steps=1, ceiling_seconds=0.0)


def _compared(work: Work, folder: Path, pairs: int) -> Comparison:
    """Start all sides in turn, with `work.ranks` ranks each. `folder`: does not exist yet."""
    folder.mkdir()
    shared = Shared.of(work, folder, steps=2)

    def ours(number: int) -> Measurement:
        seconds, lines = until_first_step(_training.ours(work, folder, folder / f"launcher-{number}", dropout=0.0))
        return Measurement(seconds, losses={1: lines[0][0]["loss"]})

    def theirs(name: str) -> Callable[[int], Measurement]:
        kind, starter = SIDES[name]

        def measure(number: int) -> Measurement:
            seconds, lines = until_first_step(
                _training.peer(work, kind, shared, folder / f"{kind}-{number}", steps=2, starter=starter)
            )
            return Measurement(seconds, losses=shared.losses(lines))

        return measure

    starts = {"launcher": ours, **{name: theirs(name) for name in SIDES}}
    sides = [Side(name, _workplace.counted(start)) for name, start in starts.items()]
    title = f"from the command to the end of the first step, {work.title}"
    measured = alternate(title, "s", sides, pairs, higher_is_better=False)
    return replace(measured, notes=[_training.agreement(measured)])


def until_first_step(job: Job) -> tuple[float, list[list[Line]]]:
    """Start a job and kill it after its first step. Returns the seconds to the end of rank 0's step, and the line of
    each rank."""
    begin = time.monotonic()
    try:
        job.start()
        lines = job.take(1).lines
    finally:
        job.stop()
    return lines[0][0]["end"] - begin, lines
