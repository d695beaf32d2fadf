"""A step with dropout by the contract beside one with torch's own, and one without dropout.

BERT-mini (4 x 256, 32 samples of 128 tokens, masked language modelling, AdamW) on one rank. The same model draws from
torch's generator, as it does outside of the launcher, or by the contract.
"""

import argparse
import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from benchmarks import _workplace
from benchmarks.pairs import Comparison, Side, alternate

if TYPE_CHECKING:
    from launcher.train.sample_randomness import ModelRandomness
    from launcher.train.training_run import Run

RECIPE = """
name: {name}
seed: 1
model: {{kind: config, type: bert, hidden_size: 256, num_hidden_layers: 4, num_attention_heads: 4,
         intermediate_size: 1024, vocab_size: 30522, dropout: {dropout}, attention_dropout: {attention}}}
tokenizer: {{kind: train, vocab_size: 8192}}
data: {{train: {{kind: python_docs}}, max_length: 128}}
task: {{kind: mlm}}
train: {{global_batch: 32, steps: 1000, precision: {precision}}}
optimizer: {{kind: adamw, lr: 1.0e-4}}
sinks: []
"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, help="threads of the rank (default: 1)")
    parser.add_argument("--precisions", default="bf16,fp32", help="default: bf16,fp32")


def measure(options: argparse.Namespace) -> list[Comparison]:
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with _workplace.temporary_folder("dropout"):
        return [
            _compare(precision, rate, options.pairs)
            for precision in options.precisions.split(",")
            for rate in (0.1, 0.0)
        ]


def _compare(precision: str, attention: float, pairs: int) -> Comparison:
    """Return the comparison for a dropout rate of attention weights."""
    wet, dry = (_run(precision, *rates) for rates in ((0.1, attention), (0.0, 0.0)))
    sides = [
        Side("by the contract", _steps(wet)),
        Side("by torch", _steps(replace(wet, randomness=cast("ModelRandomness", _Generator())))),
        Side("without dropout", _steps(dry)),
    ]
    title = f"a step in {precision}, dropout 0.1, of attention {attention:g}"
    return alternate(title, "s", sides, pairs, higher_is_better=False, warm_up=2)


def _run(precision: str, dropout: float, attention: float) -> "Run":
    name = f"d{dropout}-{attention}-{precision}"
    return _workplace.built(RECIPE.format(name=name, dropout=dropout, attention=attention, precision=precision))


class _Generator:
    """Nothing is known of a step's samples: modules draw from torch's generator."""

    def drawing(self, rows: Any) -> Any:
        return contextlib.nullcontext()


def _steps(run: "Run") -> Callable[[], float]:
    return _workplace.counted(lambda number: _workplace.step(run, number)[0])
