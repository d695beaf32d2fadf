"""Seconds for which training waits for a copy in memory, beside a checkpoint on disk that it waits for.

A BERT-base with AdamW on 2 ranks.

The first two copies allocate the memory of their slots. A checkpoint is written into a temporary folder (TMPDIR).
"""

import argparse
import multiprocessing
import time
from pathlib import Path

from benchmarks import _workplace
from benchmarks.pairs import Comparison

RECIPE = """
name: copies
seed: 1
model: {kind: config, type: bert}
tokenizer: {kind: train, vocab_size: 30522}
data: {train: {kind: python_docs, packages: [stdlib]}, max_length: 64}
task: {kind: mlm}
train: {global_batch: 4, steps: 3}
optimizer: {kind: adamw, lr: 1.0e-4}
checkpoint: {memory: 1}
"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--strategies", default="ddp,fsdp")
    parser.add_argument("--copies", type=int, default=6)


def measure(options: argparse.Namespace) -> list[Comparison]:
    from launcher.config import load
    from launcher.prepare import run_setup

    with _workplace.temporary_folder("copies"):
        Path("recipe.yaml").write_text(RECIPE, encoding="utf-8")
        for strategy in options.strategies.split(","):
            loaded = load.recipe("recipe.yaml", [f"name={strategy}", f"strategy.kind={strategy}"])
            run = run_setup.create(run_setup.validate(loaded, load.cluster("local").value, options.ranks))
            run.release()
            context = multiprocessing.get_context("spawn")
            arguments = (options.ranks, run.folder.path.absolute(), options.copies)
            ranks = [context.Process(target=_rank, args=(rank, *arguments)) for rank in range(options.ranks)]
            for process in ranks:
                process.start()
            for process in ranks:
                process.join()
    return []


def _rank(rank: int, world: int, folder: Path, copies: int) -> None:
    """Build a run, and time copies of its state and a checkpoint."""
    import torch.distributed as dist

    from launcher.build import build
    from launcher.distributed import process_group
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.prepare import run_setup
    from launcher.train import loop, memory_restore

    store = dist.FileStore(str(folder / "store"), world)
    process = process_group.connect(process_group.RankInfo(rank, world, rank, world), "cpu", store)
    made = run_setup.load(folder)
    copied, _ = memory_restore.begin(made, process, 0)
    assert copied is not None
    run, _ = build(made, process, StopMonitor(), None, workers=0)
    run.engine.state_dict()  # makes the optimiser's state
    seconds = list[float]()
    for step in range(1, copies + 1):
        run.progress.step = step
        process.barrier()
        begin = time.perf_counter()
        copied.copy(run.engine.state_dict(), {**loop.checkpoint_state(run), "saving": 0})
        process.barrier()
        seconds.append(time.perf_counter() - begin)
    process.barrier()
    begin = time.perf_counter()
    loop.save(run)
    saved = time.perf_counter() - begin
    _, found = memory_restore.begin(made, process, 0)
    assert found is not None
    process.barrier()
    begin = time.perf_counter()
    state = run.engine.state_dict()
    found.read_into(state, all_ranks=True)
    read = time.perf_counter() - begin
    if rank == 0:
        later = ", ".join(f"{one:.2f}" for one in seconds[2:])
        size = sum(file.stat().st_size for file in copied.folder.path.glob("*.safetensors")) / 2**20
        print(f"{made.recipe.strategy.kind}, {world} ranks, {size:,.0f} MiB of state: first copies", end="")
        print(
            f" {seconds[0]:.2f} and {seconds[1]:.2f} s, later {later} s; disk {saved:.2f} s; read {read:.2f} s",
            flush=True,
        )
    copied.remove()
    process.close()
