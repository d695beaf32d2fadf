"""From opening prepared data to the batch of a step far on, beside a DataLoader that skips as the Trainer does.

The Trainer begins with the epoch of the step, draws its order, and skips the batches before the step with accelerate's
skip_first_batches. Each sample is one token. Every side starts in a process of its own, after its imports.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import _option_types, _workplace, seek
from benchmarks.pairs import Comparison, Side, alternate

BATCH = 64


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=15_000_000, help="of the prepared corpus (default: 15,000,000)")
    parser.add_argument(
        "--positions", type=_option_types.numbers, default="1000000,100000000", metavar="N,N",
        help="samples before the batch, from the first epoch on (default: 10^6 and 10^8)",
    )  # fmt: skip


def measure(options: argparse.Namespace) -> list[Comparison]:
    with _workplace.temporary_folder("resume") as folder:
        seek.write_corpus(folder, options.samples)
        return [_compared(folder, position, options) for position in options.positions]


def _compared(folder: Path, position: int, options: argparse.Namespace) -> Comparison:
    sides = [Side(name, timed(script, folder, position)) for name, script in SIDES.items()]
    title = f"to the batch after sample {position:,} of epochs of {options.samples:,}"
    return alternate(title, "s", sides, options.pairs, higher_is_better=False)


def timed(script: str, folder: Path, position: int) -> Callable[[], float]:
    """Return a function that runs a script on the corpus, and returns the seconds that it prints."""
    command = [sys.executable, "-c", script, str(folder), str(position // BATCH), str(BATCH)]
    return lambda: float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


_OURS = """
import sys, time
from pathlib import Path
from launcher.contract.order import Order
from launcher.prepare.prepared_samples import PreparedSamples
folder, step, batch = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
begin = time.perf_counter()
samples = PreparedSamples(folder, "train")
_, ids = Order(len(samples), 17).step(step, batch)
rows = samples.rows(ids)
assert len(rows) == batch
print(time.perf_counter() - begin)
"""
_SKIP = """
import sys, time
import torch
from accelerate import skip_first_batches
from datasets import Dataset
from torch.utils.data import DataLoader
folder, step, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
begin = time.perf_counter()
samples = Dataset.from_file(f"{folder}/train.arrow")
loader = DataLoader(samples, batch, shuffle=True, generator=torch.Generator(), drop_last=True)
rows = next(iter(skip_first_batches(loader, step % len(loader))))
assert len(rows["input_ids"]) == 1 and len(rows["input_ids"][0]) == batch
print(time.perf_counter() - begin)
"""
SIDES = {"launcher": _OURS, "skip_first_batches": _SKIP}
"""The scripts of the sides. Their arguments are the folder, the step, and the samples of a step."""
