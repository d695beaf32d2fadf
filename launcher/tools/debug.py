"""`launcher debug`: train in this process, so that breakpoint() and pdb work in the model, the task and the loop.

There are no other ranks and no loader workers, and anomaly detection is on. The run folder is temporary.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config import env_vars, load
from launcher.config.format import human
from launcher.config.types import JsonObject
from launcher.distributed import private_tmp
from launcher.lr_schedules import constant
from launcher.plan import writable_folders
from launcher.prepare import run_setup
from launcher.storage.run_dir import RunDir

if TYPE_CHECKING:
    import torch

    from launcher.train.rank_batch import RankBatch
    from launcher.train.training_run import Run

_LEARNT = 0.1
"""Fraction of the first loss below which a batch counts as memorised."""


def debug(file: str, overrides: Sequence[str], steps: int, overfit: bool, shown: int, console: Console) -> int:
    """Show the first batch, then train some steps. Returns the exit code. `overfit`: train only on that batch. `shown`:
    number of samples to show. Raises UserError."""
    env_vars.set_rank_defaults(os.environ)
    problems = writable_folders.temporary()  # must come before private_tmp replaces the folder
    private_tmp.enter()
    ours = [f"name=debug-{os.getpid()}", "strategy=single"]  # a name that the user's runs do not have
    recipe = load.recipe(file, [*overrides, *ours])
    prepared = run_setup.validate(recipe, load.local_cluster(), 1, problems)
    with tempfile.TemporaryDirectory(prefix="launcher-debug-") as folder:
        return _session(replace(prepared, folder=RunDir(Path(folder)), resume=None), steps, overfit, shown, console)


def _session(prepared: run_setup.PreparedRun, steps: int, overfit: bool, shown: int, console: Console) -> int:
    import torch

    from launcher import build
    from launcher.distributed import process_group
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.train import loop
    from launcher.train.step_sync import sync_step_info

    group = process_group.connect(process_group.RankInfo(), prepared.plan.device)
    run, notes = build.build(prepared, group, StopMonitor(), None, workers=0)
    for note in [*prepared.notes, *notes]:
        console.print(f"[yellow]note[/]: {escape(note)}", soft_wrap=True)
    _show(prepared, run, shown, console)
    if overfit:
        run = replace(run, schedule=constant.Schedule(constant.Config(), steps), steps=steps)
    first, losses = next(iter(run.batches)), list[float]()
    overflows = run.recipe.train.precision == "fp16"  # fp16 may overflow: the step is repeated
    with torch.autograd.set_detect_anomaly(True, check_nan=not overflows):
        for number, batch in zip(
            range(min(steps, run.steps)), _repeat(first) if overfit else run.batches, strict=False
        ):
            record = loop.step(run, batch, sync_step_info(run.process, batch), time.perf_counter())
            losses.append(record["loss"])
            if not overfit or number % max(1, steps // 20) == 0:
                _print_step(record, console)
    console.print(f"memory: {human(_resident())} resident", highlight=False)
    return _verdict(losses, console) if overfit else 0


def _repeat(batch: "RankBatch") -> "Iterator[RankBatch]":
    while True:
        yield batch


def _print_step(record: JsonObject, console: Console) -> None:
    text = "step {step:>3}  loss {loss:.6f}  grad_norm {grad_norm:.4f}  lr {lr:.2e}  data {data}".format(**record)
    console.print(text, highlight=False, markup=False)


def _verdict(losses: list[float], console: Console) -> int:
    first, last = losses[0], losses[-1]
    if last < _LEARNT * first:
        console.print(f"[green]learnt by heart[/]: the loss of this one batch fell from {first:.4f} to {last:.4f}")
        return 0
    what = f"the loss of this one batch went from {first:.4f} to {last:.4f} in {len(losses)} steps"
    console.print(f"[red]not learnt[/]: {what}: more --steps, another lr, or something between data and loss is wrong")
    return 1


def _show(prepared: run_setup.PreparedRun, run: "Run", shown: int, console: Console) -> None:
    """Print samples in the form that the model gets, then the shapes and types of a micro-batch."""
    from launcher.prepare import tokenizer

    folder = prepared.prepared / "tokenizer"
    words = tokenizer.load(str(folder), "tokenizer") if folder.is_dir() else None
    batches = run.batches.dataset
    samples = Table.grid(padding=(0, 2))
    for number, sample in enumerate(batches.shown(0, shown)):
        samples.add_row(f"[bold]sample {number}[/]", run.task.render(sample, words))
    console.print(samples)
    table = Table("micro-batch", "shape", "dtype", "range", box=None, pad_edge=False)
    for name, tensor in _flat(batches[0].micro_batches[0]):
        table.add_row(escape(name), str(tuple(tensor.shape)), str(tensor.dtype), f"{tensor.min():g} … {tensor.max():g}")
    console.print(table)
    console.print(f"{type(run.engine.module).__name__} on {run.process.device}", highlight=False, markup=False)
    console.print(f"global batch {prepared.plan.equation}", highlight=False, markup=False)


def _flat(batch: "Mapping[str, torch.Tensor | Mapping[str, torch.Tensor]]") -> "list[tuple[str, torch.Tensor]]":
    """Return the tensors of a nested batch with their names."""
    import torch

    pairs = [pair for k, v in batch.items() for pair in (_flat(v) if isinstance(v, Mapping) else [(k, v)])]
    return [(name, value) for name, value in pairs if isinstance(value, torch.Tensor)]


def _resident() -> int:
    """Return the resident set of this process in bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)
