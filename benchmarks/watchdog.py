"""What the watchdog costs a step.

The beats alone, and the median of whole steps (an MLP on two micro-batches, one rank and one thread) that take turns
with and without beats, while another thread checks the rank every quarter of a second, as the launcher does.
"""

import argparse
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks import _workplace
from benchmarks.pairs import Comparison, Side, alternate

if TYPE_CHECKING:
    from launcher.train.training_run import Run

RECIPE = """
name: x
model: {kind: small, type: mlp, hidden: [512, 512]}
data: {train: {kind: linear, weights: [3.0, -2.0, 1.0], rows: 4000}}
task: {kind: tabular_regression}
train: {global_batch: 512, steps: 100000, max_tokens: 256}
optimizer: {kind: adamw, lr: 1.0e-3}
sinks: []
"""
BEATS_OF_A_STEP = 8
"""Data, sync, forward and backward of two micro-batches, reduction, optimizer step."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=200)


def measure(options: argparse.Namespace) -> list[Comparison]:
    os.environ["OMP_NUM_THREADS"] = "1"
    with _workplace.temporary_folder("watchdog") as folder:
        return [_measure(folder, options.rounds)]


def _measure(folder: Path, rounds: int) -> Comparison:
    from launcher.distributed import heartbeat
    from launcher.distributed.heartbeat import Heartbeat, Stage
    from launcher.distributed.watchdog import Watchdog

    file = folder / heartbeat.HEARTBEATS
    heartbeat.create(file, 1)
    beats = Heartbeat(file)
    ended = threading.Event()
    checks = threading.Thread(target=_check, args=(Watchdog(file, folder, 60.0, 1800.0), ended))
    checks.start()
    begin, count = time.perf_counter(), 100_000
    for number in range(count):
        beats.beat(Stage.FORWARD if number % 2 else Stage.BACKWARD, number)
    of_a_step = BEATS_OF_A_STEP * (time.perf_counter() - begin) / count
    run = _workplace.built(RECIPE)
    silent = replace(run, heartbeat=cast(Heartbeat, _Silent()))
    sides = [Side("with beats", _steps(replace(run, heartbeat=beats))), Side("without beats", _steps(silent))]
    note = f"a beat: {1e6 * of_a_step / BEATS_OF_A_STEP:.2f} us; the beats of a step: {1e6 * of_a_step:.1f} us"
    try:
        return alternate("a step", "ms", sides, rounds, higher_is_better=False, warm_up=10, notes=[note])
    finally:
        ended.set()
        checks.join()


def _check(watchdog: Any, ended: threading.Event) -> None:
    while not ended.wait(0.1):
        watchdog.check()


class _Silent:
    """Drops all beats."""

    def beat(self, stage: Any, step: int = 0, left: int = 0) -> None:
        pass


def _steps(run: "Run") -> Callable[[], float]:
    return _workplace.counted(lambda number: 1e3 * _step(run, number))


def _step(run: Any, number: int) -> float:
    """The seconds of one step as the loop takes it."""
    from launcher.distributed.heartbeat import Stage
    from launcher.train import loop
    from launcher.train.step_sync import sync_step_info

    begin = time.perf_counter()
    run.heartbeat.beat(Stage.LOADING, number)
    batch = run.batches.dataset[number]
    run.heartbeat.beat(Stage.AGREEING, number)
    loop.step(run, batch, sync_step_info(run.process, batch), begin)
    return time.perf_counter() - begin
