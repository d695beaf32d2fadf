"""A rank of `python -m benchmarks scaling`: what the processor and the links reach, and steps under strategies."""

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from benchmarks._collectives import CollectiveCounter
from launcher.distributed import process_group

if TYPE_CHECKING:
    from launcher.config.types import JsonObject
    from launcher.distributed.process_group import ProcessGroup

_LARGE = 2**20
"""Numbers of a large all-reduce."""


def main(text: str) -> None:
    """Measure as one rank. `text`: rank, world, store, run folder, steps and cases, as JSON."""
    job = json.loads(text)
    rank, world = job["rank"], job["world"]
    torch.set_num_threads(1)
    store = dist.FileStore(job["store"], world)
    group = process_group.connect(process_group.RankInfo(rank, world, rank, world), "cpu", store)
    found = {
        "rates": rates(group),
        "cases": [measured(group, Path(job["folder"]), case, job["steps"]) for case in job["cases"]],
    }
    if rank == 0:
        print(json.dumps(found))
    group.close()


def rates(group: "ProcessGroup") -> dict[str, float]:
    """Return what a rank reaches while all ranks measure: FLOP/s of fp32 products, bytes per second of copies, seconds
    of a message, and bytes per second that a rank sends in a large all-reduce."""
    left, memory = torch.ones(1024, 1024), torch.ones(2**24)
    out, copy = torch.empty_like(left), torch.empty_like(memory)
    product = _seconds(group, lambda: torch.mm(left, left, out=out), 5)
    copied = _seconds(group, lambda: copy.copy_(memory), 3)
    found = {"flops": 2 * 1024**3 / product, "memory": 2 * memory.nbytes / copied, "latency": 0.0, "links": 1.0}
    if group.world > 1:
        small, large = torch.zeros(1), torch.zeros(_LARGE)
        other = group.world - 1
        found["latency"] = _seconds(group, lambda: dist.all_reduce(small), 100) / (2 * other)
        sending = _seconds(group, lambda: dist.all_reduce(large), 5) - 2 * other * found["latency"]
        found["links"] = 2 * other / group.world * large.nbytes / max(1e-6, sending)
    return found


def _seconds(group: "ProcessGroup", run: Callable[[], object], count: int) -> float:
    """Return the median seconds of a call, over several blocks of `count` calls that all ranks begin together."""
    run()
    blocks = []
    for _ in range(5):
        if group.world > 1:
            dist.barrier()
        begin = time.perf_counter()
        for _ in range(count):
            run()
        blocks.append((time.perf_counter() - begin) / count)
    return statistics.median(blocks)


def measured(group: "ProcessGroup", folder: Path, case: "JsonObject", steps: int) -> "JsonObject":
    """Return the median seconds of a step, the collectives of one, and its loss. `case`: strategy and global batch."""
    from launcher.build import build
    from launcher.config import kinds
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.prepare import run_setup
    from launcher.train import loop
    from launcher.train.step_sync import sync_step_info

    made = run_setup.load(folder)
    strategy = kinds.module("strategies", case["strategy"]["kind"]).Config.model_validate(case["strategy"])
    train = made.recipe.train.model_copy(update={"global_batch": case["batch"]})
    recipe = made.recipe.model_copy(update={"strategy": strategy, "train": train})
    run = build(dataclasses.replace(made, recipe=recipe), group, StopMonitor(), None, workers=0)[0]

    def step(number: int) -> float:
        batch = run.batches.dataset[number]
        begin = time.perf_counter()
        losses.append(loop.step(run, batch, sync_step_info(group, batch), begin)["loss"])
        return time.perf_counter() - begin

    losses = list[float]()
    warm = 2
    for number in range(warm):
        step(number)
    took = [step(number) for number in range(warm, warm + steps)]
    with CollectiveCounter() as counter:
        step(warm + steps)
    return {
        "seconds": statistics.median(took), "loss": losses[-1],
        "collectives": {name: dataclasses.asdict(count) for name, count in counter.counts.items()},
    }  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
