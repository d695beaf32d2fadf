"""Batches of masked language modelling from the loader alone, beside torch's DataLoader with transformers' collator.

Both read the same prepared samples of 128 tokens and mask them, without a model. The peer is what the Trainer uses: a
shuffled DataLoader with DataCollatorForLanguageModeling and as many workers.
"""

import argparse
import time
from collections.abc import Callable, Iterator

from benchmarks import _workplace
from benchmarks.pairs import Comparison, Side, alternate

RECIPE = """
name: loader
seed: 17
model: {kind: config, type: bert, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}
tokenizer: {kind: train, vocab_size: 8192}
data: {train: {kind: python_docs}, max_length: 128}
task: {kind: mlm}
train: {global_batch: 64, steps: 100000}
optimizer: {kind: adamw, lr: 1.0e-4}
sinks: []
"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batches", type=int, default=30, help="batches of a measurement (default: 30)")
    parser.add_argument("--workers", type=int, default=0, help="worker processes of each side (default: 0)")


def measure(options: argparse.Namespace) -> list[Comparison]:
    with _workplace.temporary_folder("loader"):
        ours, theirs = _loaders(options.workers)
        sides = [
            Side("launcher", _rate(ours, options.batches)),
            Side("DataLoader, collator", _rate(theirs, options.batches)),
        ]
        title = f"loading batches of 64 x 128, {options.workers} workers"
        return [alternate(title, "batches/s", sides, options.pairs)]


def _rate(batches: Iterator[object], count: int) -> Callable[[], float]:
    """Return a function that takes `count` batches, and returns batches per second."""

    def take() -> float:
        begin = time.perf_counter()
        for _ in range(count):
            next(batches)
        return count / (time.perf_counter() - begin)

    return take


def _loaders(workers: int) -> tuple[Iterator[object], Iterator[object]]:
    """Return endless batches of the launcher's loader, and of the peer's on the same samples."""
    import numpy as np
    import torch
    import transformers

    from launcher.prepare import run_setup, tokenizer
    from launcher.prepare.prepared_samples import PreparedSamples

    run = _workplace.built(RECIPE, workers=workers)
    made = run_setup.load(run.folder.path)
    samples = PreparedSamples(made.prepared, "train")
    rows = [{"input_ids": row["input_ids"].tolist()} for row in samples.rows(np.arange(len(samples)))]
    words = tokenizer.load(str(made.prepared / "tokenizer"), "tokenizer")
    collate = transformers.DataCollatorForLanguageModeling(words, mlm_probability=0.15)

    def theirs() -> Iterator[object]:
        loader = torch.utils.data.DataLoader(
            rows, 64, shuffle=True, collate_fn=collate, num_workers=workers, drop_last=True
        )
        while True:
            yield from loader

    return iter(run.batches), theirs()
