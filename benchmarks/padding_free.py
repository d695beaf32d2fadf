"""Samples side by side in one row beside padded ones.

Topics of 9,033 introductions of Wikipedia articles at their own lengths, MiniLM, batches of 32, on one rank. Padded
rows and rows without padding take the same steps by turns, under several budgets of tokens for a micro-batch. The
learning rate is next to nothing, so that the losses of a step can be compared.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import _workplace, fetched
from benchmarks.pairs import Comparison, Measurement, Side, alternate

if TYPE_CHECKING:
    from launcher.train.training_run import Run

RECIPE = """
name: {name}
seed: 1
model: {{kind: pretrained, name: ./minilm, dropout: {dropout}}}
data: {{train: {{kind: jsonl, path: topics.jsonl}}, max_length: 256}}
task: {{kind: sequence_classification}}
train: {{global_batch: 32, steps: 1000, precision: {precision}, padding_free: {free}}}
optimizer: {{kind: adamw, lr: 1.0e-12}}
sinks: []
"""
BUDGETS = (4096, 2048, 1024)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, help="threads of the rank (default: 1)")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--precision", default="fp32")


def measure(options: argparse.Namespace) -> list[Comparison]:
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with _workplace.temporary_folder("padding-free"):
        fetched.topics(Path("topics.jsonl"))
        fetched.minilm(Path("minilm"))
        free, padded = (_run(kind, options) for kind in ("free", "padded"))
        return [_compare(free, padded, budget, options.pairs) for budget in BUDGETS]


def _compare(free: "Run", padded: "Run", budget: int, pairs: int) -> Comparison:
    sides = [Side("without padding", _Steps(free, budget)), Side("padded", _Steps(padded, budget))]
    return alternate(f"a step, max_tokens {budget:,}", "s", sides, pairs, higher_is_better=False)


def _run(kind: str, options: argparse.Namespace) -> "Run":
    free = str(kind == "free").lower()
    return _workplace.built(RECIPE.format(name=kind, free=free, dropout=options.dropout, precision=options.precision))


class _Steps:
    """Takes the steps of a run, one a call. `budget`: maximum tokens of a micro-batch."""

    def __init__(self, run: "Run", budget: int):
        self._run, self._budget, self._next = run, budget, 0

    def __call__(self) -> Measurement:
        seconds, record = _workplace.step(self._run, self._next, self._budget)
        self._next += 1
        return Measurement(seconds, {"fill": record["fill"]}, {self._next: record["loss"]})
