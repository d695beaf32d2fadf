"""The time to find the samples of a step: at step 0 and far into 10^9 samples, beside a shuffled list of 10^7.

Also the time to open a prepared corpus of 10^8 samples and read from it (1 GB of disk for a while; each sample is one
token).
"""

import argparse
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import _workplace
from benchmarks.pairs import Comparison
from launcher.contract.order import Order

SIZE, REPEATS = 10**9, 50


def milliseconds(call: Callable[[], object]) -> float:
    """The median of some repeats."""
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        call()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times)


def peak(call: Callable[[], object]) -> int:
    """Bytes at the most while it runs."""
    tracemalloc.start()
    call()
    top = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return top


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=10**8, help="of the prepared corpus (default: 10^8)")


def measure(options: argparse.Namespace) -> list[Comparison]:
    order = Order(SIZE, seed=17)
    print(f"{'batch':>6} {'step':>12} {'ms':>8} {'peak KiB':>9}")
    for batch in (64, 1024, 4096):
        for step in (0, 10**5, 10**9):
            seek = partial(order.step, step, batch)
            print(f"{batch:>6} {step:>12} {milliseconds(seek):>8.2f} {peak(seek) / 1024:>9.0f}")
    begin = time.perf_counter()
    listed = np.random.default_rng(17).permutation(10**7)
    seconds = time.perf_counter() - begin
    print(f"a shuffled list of 10^7: {seconds:.2f} s and {listed.nbytes / 2**20:.0f} MiB, at each start and epoch")
    with _workplace.temporary_folder("seek") as folder:
        write_corpus(folder, options.samples)
        told = subprocess.run([sys.executable, "-c", _OPEN, str(folder)], capture_output=True, text=True, check=True)
        print(told.stdout, end="")
    return []


def write_corpus(folder: Path, samples: int, shard: int = 50_000) -> None:
    """Write a corpus as preparation leaves it, with a record batch for each shard. A sample is one token."""
    ids = pa.ListArray.from_arrays(np.arange(shard + 1, dtype=np.int32), pa.array(np.arange(shard, dtype=np.uint16)))
    table = pa.table({"input_ids": ids, "length": pa.array(np.ones(shard, dtype=np.int32))})
    with pa.ipc.new_stream(folder / "train.arrow", table.schema) as writer:
        for _ in range(samples // shard):
            writer.write_table(table)


_OPEN = """
import sys, time
from functools import partial
from pathlib import Path
from launcher.contract.order import Order
from launcher.prepare.prepared_samples import PreparedSamples
begin = time.perf_counter()
samples = PreparedSamples(Path(sys.argv[1]), "train")
opened = time.perf_counter()
_, ids = Order(len(samples), 17).step(10**6, 64)
samples.lengths(ids), samples.rows(ids)
end = time.perf_counter()
print(f"{len(samples):,} prepared samples: opened in {opened - begin:.3f} s, 64 of step 10^6: {end - opened:.3f} s")
"""
