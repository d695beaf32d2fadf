"""The time for which training waits for a checkpoint: written beside it, at once, and by torch.save on rank 0.

Two ranks train a BERT-base with AdamW under ddp (1.2 GiB of state), and save in turns with `checkpoint.mode: async`,
with `checkpoint.mode: sync` and as a plain script does. Between two saves the ranks train until the checkpoint is
complete. The time is that from the end of a step to where the next can begin, and what its update waits for the copy.
The first save of each kind does not count.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks import _workplace
from benchmarks.pairs import Comparison, Measurement

if TYPE_CHECKING:
    from launcher.train.training_run import Run

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


OURS, SYNC, PEER = "launcher, async", "launcher, sync", "torch.save"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", default=None, help="where to work (default: a temporary folder)")
    parser.add_argument("--small", action="store_true", help="a BERT-mini, to try the benchmark itself")


def measure(options: argparse.Namespace) -> list[Comparison]:
    with _workplace.temporary_folder("save", options.folder):
        made = _prepare(MINI if options.small else BASE)
        context = multiprocessing.get_context("spawn")
        children = [context.Process(target=_rank, args=(rank, made, options.pairs + 1)) for rank in range(WORLD)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        found = json.loads(Path("found.json").read_text(encoding="utf-8"))
    sides = {side: [Measurement(value) for value in values[1:]] for side, values in found["blocked"].items()}
    title = f"training waits for a checkpoint of {found['size']:.2f} GiB, {WORLD} ranks"
    return [Comparison(title, "s", False, sides, found["notes"])]


def _prepare(shape: dict[str, int]) -> Path:
    from launcher.config import load
    from launcher.prepare import run_setup

    Path("save.yaml").write_text(RECIPE.format(**shape), encoding="utf-8")
    loaded = load.recipe("save.yaml", ["strategy=ddp"])
    made = run_setup.create(run_setup.validate(loaded, load.cluster("local").value, WORLD))
    made.release()
    return made.folder.path


def _rank(rank: int, folder: Path, saves: int) -> None:
    import torch.distributed as dist

    from launcher.build import build
    from launcher.distributed import process_group
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.prepare import run_setup
    from launcher.train.checkpoint_saver import APART_TIMEOUT, CheckpointSaver

    process = process_group.connect(
        process_group.RankInfo(rank, WORLD, rank, WORLD), "cpu", dist.FileStore("store", WORLD)
    )
    prepared = run_setup.load(folder)
    run = build(prepared, process, StopMonitor(), None, workers=0)[0]
    config, apart = prepared.recipe.checkpoint, process.apart(APART_TIMEOUT)
    modes = {OURS: config.model_copy(update={"mode": "async"}), SYNC: config.model_copy(update={"mode": "sync"})}
    savers = {side: CheckpointSaver(run.folder, mode, process, apart, run.stop, 1e6) for side, mode in modes.items()}
    steps = _Steps(run)
    blocked: dict[str, list[float]] = {OURS: [], SYNC: [], PEER: []}
    beside, resident = list[float](), list[float]()
    steps.take()
    for _ in range(saves):
        for side, saver in savers.items():
            current = replace(run, saver=saver)
            blocked[side].append(_save(current, beside, steps))
            resident.append(psutil.Process().memory_info().rss / 2**30)
        blocked[PEER].append(_blocked(run, lambda: _torch_save(run)))
        steps.take()
    if rank == 0:
        size = sum(tensor.nbytes for tensor in run.engine.state_dict().values()) / 2**30
        step = (
            f"a step: {statistics.median(steps.seconds):.2f} s, beside a save {statistics.median(beside or [0]):.2f} s"
        )
        memory = f"resident GiB: after the first two saves {resident[1]:.2f}, at the end {resident[-1]:.2f}"
        found = {"size": size, "blocked": blocked, "notes": [step, memory]}
        Path("found.json").write_text(json.dumps(found), encoding="utf-8")
    process.close()


class _Steps:
    """Takes steps of a run. `seconds`: of those taken."""

    def __init__(self, run: "Run"):
        self._run, self.seconds = run, list[float]()

    def take(self, run: "Run | None" = None) -> float:
        seconds, _ = _workplace.step(run or self._run, self._run.progress.step)
        self.seconds.append(seconds)
        return seconds


def _save(run: "Run", beside: list[float], steps: _Steps) -> float:
    """Save by the launcher, and train until the checkpoint is complete. Returns the seconds for which training waits,
    on the slowest rank."""
    from launcher.train import loop

    seconds = _blocked(run, lambda: loop.begin_save(run))
    write = run.saver._write
    while run.process.broadcast(run.saver.writing):
        beside.append(steps.take(run))
    if write is not None:  # the next update waited for the rest of the copy
        seconds = max(run.process.all_gather_objects(max(write.blocked, seconds)))
    run.saver.finish()
    steps.take()
    return seconds


def _torch_save(run: "Run") -> None:
    """Save as a plain script does: rank 0 writes the model and the optimiser, the others wait."""
    import torch

    if run.process.rank == 0:
        torch.save(dict(run.engine.state_dict()), "plain.partial")
        Path("plain.partial").rename("plain.pt")


def _blocked(run: "Run", save: Callable[[], None]) -> float:
    """Return the seconds of a call on all ranks."""
    run.process.barrier()
    begin = time.perf_counter()
    save()
    run.process.barrier()
    return time.perf_counter() - begin
