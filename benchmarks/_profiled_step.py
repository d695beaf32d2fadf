"""Profile the optimiser steps of one rank on one thread: `python -m benchmarks._profiled_step RECIPE OVERRIDE...`.

It prints a line of JSON: the median seconds of a step, and milliseconds of a step by kind of operation.
"""

import contextlib
import json
import os
import re
import statistics
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launcher.train.training_run import Run

WARM_UP, TIMED, PROFILED = 2, 5, 3
KINDS = {
    "matrix products": r"(add|b|badd)?mm_?$|(native_)?linear",
    "fused attention": r".*(dot_product|flash|fused)_attention",
    "copies and casts": r"copy_$|cat$|stack$|index(_select|_put_?|_put_impl_)?$|contiguous",
    "zero fills": r"(fill|zero)_$",
    "softmax and loss": r"_(log_)?softmax|nll_loss|logsumexp|exp_?$|amax|max$|gather|scatter|LogSoftmax",
    "bits of dropout": r"keep_|bitwise_|(ge|lt)_?$|.*dropout",
    "norms of layers": r"native_layer_norm|.*rms_norm",
    "activations": r"gelu|silu|tanh|relu",
    "embeddings": r"embedding",
    "other element-wise": r"(mul|add|sub|sum|div|neg|rsub|where|masked_fill|mean|clamp)_?$",
    "optimizer and norm": r"_fused_adam|_foreach|linalg_vector_norm",
}
"""Kinds of operations: patterns of their names without a namespace."""


def kind(name: str) -> str:
    """Return the kind of an operation. `name`: as the profiler has it, such as aten::mm or launcher::keep_in_blocks."""
    operation = name.rpartition(":")[2].strip()
    return next((found for found, pattern in KINDS.items() if re.match(pattern, operation)), "other")


def main(recipe: str, *overrides: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    from torch.profiler import ProfilerActivity, profile

    run = _built(recipe, overrides)
    for number in range(WARM_UP):
        _step(run, number)
    seconds = [_step(run, number) for number in range(WARM_UP, WARM_UP + TIMED)]
    with profile(activities=[ProfilerActivity.CPU]) as measured:
        for number in range(WARM_UP + TIMED, WARM_UP + TIMED + PROFILED):
            _step(run, number)
    spent: Counter[str] = Counter()
    for entry in measured.key_averages():
        spent[kind(entry.key)] += entry.self_cpu_time_total / 1000 / PROFILED
    print(json.dumps({"seconds": statistics.median(seconds), "kinds": spent}), flush=True)


def _built(recipe: str, overrides: tuple[str, ...]) -> "Run":
    """Return a run of one rank, built in this process."""
    from launcher.build import build
    from launcher.config import load
    from launcher.distributed import process_group
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.prepare import run_setup

    with contextlib.suppress(ImportError):  # an earlier checkout may have no such setting of ranks
        from launcher.distributed import host_memory

        host_memory.keep_freed(os.environ)
    keys = ["strategy=single", f"name=profiled-{os.getpid()}", *overrides]
    made = run_setup.create(run_setup.validate(load.recipe(recipe, keys), load.cluster("local").value, 1))
    made.release()
    group = process_group.connect(process_group.RankInfo(), "cpu")
    return build(made, group, StopMonitor(), None, workers=0)[0]


def _step(run: "Run", number: int) -> float:
    from launcher.train import loop
    from launcher.train.step_sync import sync_step_info

    batch = run.batches.dataset[number]
    begin = time.perf_counter()
    loop.step(run, batch, sync_step_info(run.process, batch), begin)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main(*sys.argv[1:])
