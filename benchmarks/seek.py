"""What it costs to know the samples of a step: at step 0 and far into 10^9 samples, beside a shuffled list of 10^7.

python benchmarks/seek.py
"""

import statistics
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

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


def main() -> None:
    order = Order(SIZE, seed=17)
    print(f"{'batch':>6} {'step':>12} {'ms':>8} {'peak KiB':>9}")
    for batch in (64, 1024, 4096):
        for step in (0, 10**5, 10**9):
            print(
                f"{batch:>6} {step:>12} {milliseconds(lambda b=batch, s=step: order.step(s, b)):>8.2f} "
                f"{peak(lambda b=batch, s=step: order.step(s, b)) / 1024:>9.0f}"
            )
    begin = time.perf_counter()
    listed = np.random.default_rng(17).permutation(10**7)
    seconds = time.perf_counter() - begin
    print(f"a shuffled list of 10^7: {seconds:.2f} s and {listed.nbytes / 2**20:.0f} MiB, at each start and epoch")


if __name__ == "__main__":
    main()
