"""The goodput that `launcher simulate` foresees, beside that of a real run.

A rank of a real run on two ranks is killed at random times. Its goodput by the ledger stands beside that of simulated
runs with the costs measured in it and with the same times between failures.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from ruamel.yaml import YAML

from benchmarks import _workplace
from benchmarks.pairs import Comparison
from launcher.plan import failure_simulation
from launcher.plan.failure_simulation import Costs, SimulatedJob
from launcher.storage import goodput, ledger
from launcher.storage.run_dir import RunDir
from launcher.tools import failure_costs

RUN = RunDir(Path("runs/killed"))
EVERY = 100
SLOW = """
import time
from launcher import sinks
from launcher.config.types import Plugin

class Config(Plugin):
    kind: str

class Sink(sinks.Sink):
    def __init__(self, config, about):
        pass

    def write(self, record):
        time.sleep(0.05)

    def close(self, finished):
        pass
"""


def write_recipe(steps: int) -> None:
    """Write a recipe whose steps take some 50 ms."""
    Path("own").mkdir()
    Path("own/slow.py").write_text(SLOW)
    recipe = {
        "name": "killed", "seed": 3, "model": {"kind": "small", "type": "mlp", "hidden": [16]},
        "data": {"train": {"kind": "linear", "weights": [3.0, -2.0, 1.0], "rows": 120}},
        "task": {"kind": "tabular_regression"}, "train": {"global_batch": 12, "steps": steps},
        "optimizer": {"kind": "adamw", "lr": 1.0e-3}, "checkpoint": {"every": EVERY, "keep": 2},
        "sinks": ["jsonl", {"kind": "own.slow"}],
    }  # fmt: skip
    with Path("recipe.yaml").open("w") as out:
        YAML(typ="safe", pure=True).dump(recipe, out)


def rank0() -> ledger.LedgerLine | None:
    """Return the first line of the newest process of rank 0."""
    lines = [line for line in ledger.read(RUN) if line.writer == "rank"]
    return next((line for line in lines if line.process == lines[-1].process), None)


def kill(between: float, seed: int, ended: threading.Event) -> None:
    """Kill a rank again and again: each start lives for an exponential time from the beginning of its ranks."""
    lives, which, last = np.random.default_rng(seed), np.random.default_rng(seed + 1), ""
    while not ended.wait(0.05):
        line = rank0()
        if line is None or line.process == last:
            continue
        last, life = line.process, float(lives.exponential(between, 1)[0])
        if ended.wait(max(0.0, line.begun + life - time.time())):
            return
        first = psutil.Process(int(last.partition("-")[0]))
        ranks = sorted(first.parent().children(), key=lambda process: process.pid)
        os.kill(ranks[which.integers(len(ranks))].pid, signal.SIGKILL)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--between", type=float, default=25.0, help="mean seconds between failures")
    parser.add_argument("--seed", type=int, default=0)


def measure(options: argparse.Namespace) -> list[Comparison]:
    with _workplace.temporary_folder("simulate"):
        _compare(options)
    return []


def _compare(options: argparse.Namespace) -> None:
    write_recipe(options.steps)
    ended = threading.Event()
    killer = threading.Thread(target=kill, args=(options.between, options.seed, ended))
    killer.start()
    words = ["-m", "launcher", "run", "recipe.yaml", "--ranks", "2", "--max-restarts", "1000"]
    code = subprocess.run([sys.executable, *words], capture_output=True, text=True).returncode
    ended.set()
    killer.join()

    lines = ledger.read(RUN)
    real = goodput.account(lines)
    assert code == 0 and real is not None, f"the run ended with {code}"
    measured = failure_costs.measure(lines)
    costs, job = Costs(**measured), SimulatedJob(options.steps, EVERY, options.between, spares=1)
    same, many = (failure_simulation.simulate(job, costs, runs, options.seed) for runs in (1, 1000))
    print("costs measured: " + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in measured.items()))
    starts = len({line.process for line in lines if line.writer == "rank"})
    print(f"the real run: goodput {real.goodput:.1%} of {real.total:.0f} s, {starts - 1} failures")
    print(f"simulated, the same times: {same.goodput[0]:.1%}, {same.failures[0]:.0f} failures")
    low, high = np.percentile(many.goodput, [5, 95])
    print(f"simulated, 1000 times: {many.goodput.mean():.1%} ({low:.1%} to {high:.1%})")
    print(f"{'purpose':12} {'real':>8} {'same times':>10} {'mean':>8}")
    for purpose, seconds in real.parts.items():
        print(f"{purpose:12} {seconds:8.1f} {same.mean.parts[purpose]:10.1f} {many.mean.parts[purpose]:8.1f}")
