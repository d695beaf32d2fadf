"""What the watchdog costs a step: `python benchmarks/watchdog.py [--rounds 200]`.

The beats alone, and the median of whole steps (an MLP on two micro-batches, one rank and one thread) that take turns
with and without beats, while another thread checks the rank every quarter of a second, as the launcher does.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="launcher-watchdog-") as folder:
        os.chdir(folder)
        _measure(Path(folder), options.rounds)


def _measure(folder: Path, rounds: int) -> None:
    from launcher.distributed import heartbeat
    from launcher.distributed.heartbeat import Heartbeat, Stage
    from launcher.distributed.watchdog import Watchdog

    file = folder / heartbeat.HEARTBEATS
    heartbeat.create(file, 1)
    beats = Heartbeat(file)
    threading.Thread(target=_check, args=(Watchdog(file, folder, 60.0, 1800.0),), daemon=True).start()
    begin, count = time.perf_counter(), 100_000
    for number in range(count):
        beats.beat(Stage.FORWARD if number % 2 else Stage.BACKWARD, number)
    of_a_step = BEATS_OF_A_STEP * (time.perf_counter() - begin) / count
    run = _run()
    runs = {"with": replace(run, heartbeat=beats), "without": replace(run, heartbeat=_Silent())}
    taken: dict[str, list[float]] = {kind: [] for kind in runs}
    for number in range(rounds + 10):
        for kind, one in runs.items():
            seconds = _step(one, number)
            taken[kind] += [seconds] if number >= 10 else []
    medians = {kind: statistics.median(times) for kind, times in taken.items()}
    print(f"a beat: {1e6 * of_a_step / BEATS_OF_A_STEP:.2f} us; the beats of a step: {1e6 * of_a_step:.1f} us")
    for kind, median in medians.items():
        print(f"a step {kind} beats: {1e3 * median:.3f} ms")
    print(f"the beats are {of_a_step / medians['without']:.3%} of a step")


def _check(watchdog: Any) -> None:
    while True:
        watchdog.check()
        time.sleep(0.1)


class _Silent:
    """Drops all beats."""

    def beat(self, stage: Any, step: int = 0, left: int = 0) -> None:
        pass


def _run() -> Any:
    """A run of one rank, built."""
    from launcher import rank_training
    from launcher.config import load
    from launcher.distributed import process_group
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.prepare import run_setup

    Path("x.yaml").write_text(RECIPE, encoding="utf-8")
    loaded = load.recipe("x.yaml", ["strategy=single"])
    made = run_setup.create(run_setup.validate(loaded, load.cluster("local").value, 1))
    group = process_group.connect(process_group.RankInfo(), "cpu")
    return rank_training.build(made, group, StopMonitor(), None, workers=0)[0]


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


if __name__ == "__main__":
    main()
