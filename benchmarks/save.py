"""How long training waits for a checkpoint, with `checkpoint.mode` async and sync in turns, on two ranks that train a
BERT-base with AdamW under ddp (1.2 GiB of state): `python benchmarks/save.py [--saves 20] [--folder FOLDER]`.

Between two saves the ranks train until the checkpoint is complete. Blocked is the time from the end of a step to where
the next can begin, and what its update waits for the copy. `--small` is a BERT-mini, to try the benchmark itself.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

RECIPE = """
name: save
seed: 1
model: {{kind: config, type: bert, vocab_size: {vocabulary}, hidden_size: {hidden}, num_hidden_layers: {layers},
         num_attention_heads: {heads}, intermediate_size: {intermediate}, dropout: 0.0}}
tokenizer: {{kind: train, vocab_size: 2048}}
data: {{train: {{kind: python_docs, limit: 2000}}, max_length: 32}}
task: {{kind: mlm}}
train: {{global_batch: 4, steps: 1000}}
optimizer: {{kind: adamw, lr: 1.0e-4}}
checkpoint: {{every: 1, keep: 1}}
"""
BASE = {"vocabulary": 30522, "hidden": 768, "layers": 12, "heads": 12, "intermediate": 3072}
MINI = {"vocabulary": 8192, "hidden": 256, "layers": 4, "heads": 4, "intermediate": 1024}
WORLD = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saves", type=int, default=20)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--small", action="store_true")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=told.folder) as folder:
        os.chdir(folder)
        made = _prepare(MINI if told.small else BASE)
        context = multiprocessing.get_context("spawn")
        children = [context.Process(target=_rank, args=(rank, made, told.saves)) for rank in range(WORLD)]
        for child in children:
            child.start()
        for child in children:
            child.join()


def _prepare(shape: dict[str, int]) -> Path:
    from launcher.config import load
    from launcher.prepare import run_setup

    Path("save.yaml").write_text(RECIPE.format(**shape), encoding="utf-8")
    loaded = load.recipe("save.yaml", ["strategy=ddp"])
    return run_setup.create(run_setup.validate(loaded, load.cluster("local").value, WORLD)).folder.path


def _rank(rank: int, folder: Path, saves: int) -> None:
    import torch.distributed as dist

    from launcher import rank_training
    from launcher.distributed import process_group
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.prepare import run_setup
    from launcher.train.checkpoint_saver import CheckpointSaver

    process = process_group.connect(
        process_group.RankInfo(rank, WORLD, rank, WORLD), "cpu", dist.FileStore("store", WORLD)
    )
    prepared = run_setup.load(folder)
    run = rank_training.build(prepared, process, StopMonitor(), None, workers=0)[0]
    savers = {
        mode: CheckpointSaver(
            run.folder, prepared.recipe.checkpoint.model_copy(update={"mode": mode}), run.process, run.stop, 1e6
        )
        for mode in ("async", "sync")
    }
    blocked: dict[str, list[float]] = {mode: [] for mode in savers}
    plain, beside, resident = list[float](), list[float](), list[float]()
    plain += [_step(run) for _ in range(4)][1:]
    for number in range(2 * saves):
        mode = ("async", "sync")[number % 2]
        run = replace(run, saver=savers[mode])
        blocked[mode].append(_save(run))
        write = run.saver._write
        while run.process.broadcast(run.saver.writing):
            beside.append(_step(run))
        if write is not None:  # the next update waited for the rest of the copy
            blocked[mode][-1] = max(run.process.all_gather_objects(max(write.blocked, blocked[mode][-1])))
        run.saver.finish()
        plain.append(_step(run))
        resident.append(psutil.Process().memory_info().rss / 2**30)
    if rank == 0:
        _report(run, blocked, plain, beside, resident)
    process.close()


def _step(run: Any) -> float:
    from launcher.train import loop
    from launcher.train.step_sync import sync_step_info

    begin = time.perf_counter()
    batch = run.batches.dataset[run.progress.step]
    loop.step(run, batch, sync_step_info(run.process, batch), begin)
    return time.perf_counter() - begin


def _save(run: Any) -> float:
    from launcher.train import loop

    run.process.barrier()
    begin = time.perf_counter()
    loop.begin_save(run)
    run.process.barrier()
    return time.perf_counter() - begin


def _report(
    run: Any, blocked: dict[str, list[float]], plain: list[float], beside: list[float], rss: list[float]
) -> None:
    size = sum(tensor.nbytes for tensor in run.engine.state_dict().values()) / 2**30
    print(f"{size:.2f} GiB of state on {WORLD} ranks, {len(blocked['sync'])} saves of each mode in turns")
    for mode, seconds in blocked.items():
        later = seconds[1:] or seconds
        of_later = f"median {statistics.median(later):.3f} s, max {max(later):.3f} s"
        print(f"{mode:6} blocked: {of_later} (the first {seconds[0]:.3f} s)")
    sync = statistics.median(blocked["sync"][1:] or blocked["sync"])
    later = blocked["async"][1:] or blocked["async"]
    print(f"sync / async: {sync / statistics.median(later):.1f} at the median, {sync / max(later):.1f} at the worst")
    print(f"a step: {statistics.median(plain):.2f} s, beside a save {statistics.median(beside or [0]):.2f} s")
    print(f"resident GiB: after the first two saves {rss[1]:.2f}, at the end {rss[-1]:.2f}, most {max(rss):.2f}")


if __name__ == "__main__":
    main()
