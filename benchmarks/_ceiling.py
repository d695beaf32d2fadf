"""The ceiling of matrix products: large bf16 products on all threads of all ranks at once."""

import subprocess
import sys
from collections.abc import Mapping

_PRODUCTS = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
size, seconds = int(sys.argv[3]), float(sys.argv[4])
a, b = (torch.randn(size, size, dtype=getattr(torch, sys.argv[2])) for _ in range(2))
c = a @ b
print("ready", flush=True)
sys.stdin.readline()
begin, count = time.perf_counter(), 0
while time.perf_counter() - begin < seconds:
    torch.mm(a, b, out=c)
    count += 1
print(2 * size**3 * count / (time.perf_counter() - begin))
"""


def measure(
    ranks: int,
    threads: int,
    environment: Mapping[str, str],
    dtype: str = "bfloat16",
    size: int = 2048,
    seconds: float = 2,
) -> float:
    """Return the FLOP/s of all ranks together. `threads`: of a rank; `size`: of the square matrices."""
    command = [sys.executable, "-c", _PRODUCTS, str(threads), dtype, str(size), str(seconds)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(environment))
        for _ in range(ranks)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in processes)
