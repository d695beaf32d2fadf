"""A step with dropout by the contract beside one with torch's own: `python benchmarks/dropout.py [--threads 1]`.

BERT-mini (4 x 256, 32 samples of 128 tokens, masked language modelling, AdamW) on one rank. The same model steps by
turns with its draws from torch's generator, as it does outside of the launcher, and by the contract; a model without
attention dropout and one without any are beside them.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with tempfile.TemporaryDirectory(prefix="launcher-dropout-") as folder:
        os.chdir(folder)
        print(f"{'precision':10} {'dropout':8} {'of attention':13} {'drawn by':12} {'seconds':>8} {'to torch':>9}")
        for precision in ("bf16", "fp32"):
            _compare(precision, options.rounds)


def _compare(precision: str, rounds: int) -> None:
    wet, hidden, dry = (_run(precision, *rates) for rates in ((0.1, 0.1), (0.1, 0.0), (0.0, 0.0)))
    kinds: dict[tuple[str, str, str], Callable[[int], None]] = {
        ("0.1", "0.1", "torch"): _steps(_by_torch(wet)),
        ("0.1", "0.1", "the contract"): _steps(wet),
        ("0.1", "0", "torch"): _steps(_by_torch(hidden)),
        ("0.1", "0", "the contract"): _steps(hidden),
        ("0", "0", ""): _steps(dry),
    }
    taken: dict[tuple[str, str, str], list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds + 2):
        for kind, step in kinds.items():
            begin = time.perf_counter()
            step(number)
            taken[kind] += [time.perf_counter() - begin] if number > 1 else []
    for kind, times in taken.items():
        own = taken[(*kind[:2], "torch")] if kind[2] else taken["0.1", "0.1", "torch"]
        ratio = statistics.median(a / b for a, b in zip(times, own, strict=True))
        print(f"{precision:10} {kind[0]:8} {kind[1]:13} {kind[2]:12} {statistics.median(times):8.3f} {ratio:9.2f}")


def _run(precision: str, dropout: float, attention: float) -> Any:
    """A run of one rank, built."""
    from launcher import rank_training
    from launcher.config import load
    from launcher.distributed import process_group
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.prepare import run_setup

    name = f"d{dropout}-{attention}-{precision}"
    text = RECIPE.format(name=name, dropout=dropout, attention=attention, precision=precision)
    Path(f"{name}.yaml").write_text(text, encoding="utf-8")
    made = run_setup.create(
        run_setup.validate(load.recipe(f"{name}.yaml", ["strategy=single"]), load.cluster("local").value, 1)
    )
    group = process_group.connect(process_group.RankInfo(), "cpu")
    return rank_training.build(made, group, StopMonitor(), None, workers=0)[0]


class _Generator:
    """Nothing is known of a step's samples: modules draw from torch's generator."""

    def drawing(self, rows: Any) -> Any:
        return contextlib.nullcontext()


def _by_torch(run: Any) -> Any:
    return replace(run, randomness=_Generator())


def _steps(run: Any) -> Callable[[int], None]:
    from launcher.train import loop
    from launcher.train.step_sync import sync_step_info

    def step(number: int) -> None:
        batch = run.batches.dataset[number]
        loop.step(run, batch, sync_step_info(run.process, batch), time.perf_counter())

    return step


if __name__ == "__main__":
    main()
