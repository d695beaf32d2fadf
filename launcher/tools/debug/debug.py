"""`launcher debug`: train in this process, so that breakpoint() and pdb work in the model, the task and the loop.

There are no other ranks and no loader workers, and anomaly detection is on. The run folder is temporary.
"""

import os
import pdb
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config import env_vars, load
from launcher.config.errors import UserError, first_line, shown
from launcher.config.format import human
from launcher.config.types import JsonObject
from launcher.distributed import private_tmp
from launcher.distributed.exit_codes import FAILED
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


@dataclass(frozen=True)
class Session:
    """What a session does. `steps`: to train; `overfit`: only on the first batch; `samples`: number of samples to show.
    `memory`: show the memory of each layer; `check_gradients`: compare gradients with finite differences; `profile`:
    file for a trace of the steps; `post_mortem`: start pdb at an exception."""

    steps: int
    overfit: bool = False
    samples: int = 3
    memory: bool = False
    check_gradients: bool = False
    profile: Path | None = None
    post_mortem: bool = False


def debug(file: str, overrides: Sequence[str], session: Session, console: Console) -> int:
    """Show the first batch, then train some steps. Returns the exit code. Raises UserError."""
    if session.post_mortem and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("--post-mortem: needs a terminal for pdb (leave it out for a traceback)")
    if session.profile is not None and not session.profile.absolute().parent.is_dir():
        raise UserError(f"--profile: {shown(str(session.profile.parent))}: no such folder")
    env_vars.set_rank_defaults(os.environ)
    problems = writable_folders.temporary()  # must come before private_tmp replaces the folder
    private_tmp.enter()
    ours = [f"name=debug-{os.getpid()}", "strategy=single"]  # a name that the user's runs do not have
    recipe = load.recipe(file, [*overrides, *ours])
    prepared = run_setup.validate(recipe, load.local_cluster(), 1, problems)
    with tempfile.TemporaryDirectory(prefix="launcher-debug-") as folder:
        temporary = replace(prepared, folder=RunDir(Path(folder)), resume=None)
        with _stopped_where_it_broke(session.post_mortem, console) as broken:
            return _run(temporary, session, console)
        return FAILED if broken else 0


@contextmanager
def _stopped_where_it_broke(wanted: bool, console: Console) -> Iterator[list[str]]:
    """Start pdb in the frame that raises an exception. Yields a list to which the exception's text is added.

    The check of a model before the first step reports an exception of the user's code as a UserError, whose cause is
    the exception.
    """
    broken = list[str]()
    try:
        yield broken
    except Exception as failure:
        error = failure.__context__ if isinstance(failure, UserError) else failure
        if not wanted or error is None:
            raise
        broken.append(f"{type(error).__name__}: {first_line(error)}")
        console.print(f"[red]failed[/]: {escape(shown(broken[0]))} (pdb: w shows the calls, u goes up, q leaves)")
        pdb.post_mortem(error.__traceback__)


def _run(prepared: run_setup.PreparedRun, session: Session, console: Console) -> int:
    import torch

    from launcher import build
    from launcher.distributed import process_group
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.tools.debug import gradient_check, layer_memory, profiler

    group = process_group.connect(process_group.RankInfo(), prepared.plan.device)
    run, notes = build.build(prepared, group, StopMonitor(), None, workers=0)
    for note in [*prepared.notes, *notes]:
        console.print(f"[yellow]note[/]: {escape(note)}", soft_wrap=True)
    _show(prepared, run, session.samples, console)
    if session.overfit:
        run = replace(run, schedule=constant.Schedule(constant.Config(), session.steps), steps=session.steps)
    first, reached = next(iter(run.batches)), gradient_check.Reached(run.engine.unwrapped)
    overflows = run.recipe.train.precision == "fp16"  # fp16 may overflow: the step is repeated
    with (
        profiler.traced(session.profile, run.process.device.type, console),
        torch.autograd.set_detect_anomaly(session.profile is None, check_nan=not overflows),
    ):
        losses = _train(run, first, session, console)
    reached.report(len(losses), console)
    console.print(f"memory: {human(_resident())} resident", highlight=False)
    if session.memory:
        layer_memory.show(run, first, console)
    code = _verdict(losses, console) if session.overfit else 0
    return max(code, gradient_check.compare(run, first, console)) if session.check_gradients else code


def _train(run: "Run", first: "RankBatch", session: Session, console: Console) -> list[float]:
    """Train the steps, print them, and return their losses."""
    from launcher.train import loop
    from launcher.train.step_sync import sync_step_info

    losses = list[float]()
    batches = _repeat(first) if session.overfit else run.batches
    for number, batch in zip(range(min(session.steps, run.steps)), batches, strict=False):
        record = loop.step(run, batch, sync_step_info(run.process, batch), time.perf_counter())
        losses.append(record["loss"])
        if not session.overfit or number % max(1, session.steps // 20) == 0:
            _print_step(record, console)
    return losses


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


def _show(prepared: run_setup.PreparedRun, run: "Run", count: int, console: Console) -> None:
    """Print samples in the form that the model gets, then the shapes and types of a micro-batch."""
    from launcher.prepare import tokenizer

    folder = prepared.prepared / "tokenizer"
    words = tokenizer.load(str(folder), "tokenizer") if folder.is_dir() else None
    batches = run.batches.dataset
    samples = Table.grid(padding=(0, 2))
    for number, sample in enumerate(batches.shown(0, count)):
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
