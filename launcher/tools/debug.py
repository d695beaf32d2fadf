"""`launcher debug`: one process, this one, so that breakpoint() and pdb work in the model, the task and the loop.

No ranks, no loader workers, anomaly detection on. Its run folder is a temporary one: no run of the user is touched.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config import load
from launcher.config.format import human
from launcher.config.schedules import Constant
from launcher.distributed import private_tmp
from launcher.plan import writable_folders
from launcher.prepare import run_setup
from launcher.storage.run_dir import RunDir

_LEARNT = 0.1
"""A batch counts as learnt by heart when its loss has fallen below this share of what it was."""


def debug(file: str, overrides: Sequence[str], steps: int, overfit: bool, shown: int, console: Console) -> int:
    """Show the first batch, then train `steps` steps; `overfit`: on that one batch alone. Returns the exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    wrong = writable_folders.temporary()  # of the folder that was asked for
    private_tmp.enter()
    ours = [f"name=debug-{os.getpid()}", "strategy=single"]  # no run of the user's has this name
    made = run_setup.check(file, [*overrides, *ours], load.cluster("local").value, 1, wrong)
    with tempfile.TemporaryDirectory(prefix="launcher-debug-") as folder:
        return _session(replace(made, folder=RunDir(Path(folder)), resume=None), steps, overfit, shown, console)


def _session(made: run_setup.PreparedRun, steps: int, overfit: bool, shown: int, console: Console) -> int:
    import torch

    from launcher import build
    from launcher.distributed import process_group
    from launcher.distributed.shutdown import StopMonitor
    from launcher.train import loop

    run, notes = build.build(made, process_group.connect(process_group.RankInfo()), StopMonitor(), None, workers=0)
    for note in [*made.notes, *notes]:
        console.print(f"[yellow]note[/]: {escape(note)}", soft_wrap=True)
    _show(made, run, shown, console)
    if overfit:
        recipe = run.recipe.model_copy(update={"schedule": Constant()})
        run = replace(run, recipe=recipe, steps=steps)
    first, losses = next(iter(run.batches)), []
    overflows = run.recipe.train.precision == "fp16"  # they are expected, and the step is taken again
    with torch.autograd.set_detect_anomaly(True, check_nan=not overflows):
        for number, batch in zip(range(min(steps, run.steps)), _again(first) if overfit else run.batches, strict=False):
            record = loop.step(run, batch, loop.agree(run.process, batch), time.perf_counter())
            losses.append(record["loss"])
            if not overfit or number % max(1, steps // 20) == 0:
                _tell(record, console)
    console.print(f"memory: {human(_resident())} resident", highlight=False)
    return _verdict(losses, console) if overfit else 0


def _again(batch: Any) -> Any:
    while True:
        yield batch


def _tell(record: dict[str, Any], console: Console) -> None:
    text = "step {step:>3}  loss {loss:.6f}  grad_norm {grad_norm:.4f}  lr {lr:.2e}  data {data}".format(**record)
    console.print(text, highlight=False)


def _verdict(losses: list[float], console: Console) -> int:
    first, last = losses[0], losses[-1]
    if last < _LEARNT * first:
        console.print(f"[green]learnt by heart[/]: the loss of this one batch fell from {first:.4f} to {last:.4f}")
        return 0
    what = f"the loss of this one batch went from {first:.4f} to {last:.4f} in {len(losses)} steps"
    console.print(f"[red]not learnt[/]: {what}: more --steps, another lr, or something between data and loss is wrong")
    return 1


def _show(made: run_setup.PreparedRun, run: Any, shown: int, console: Console) -> None:
    """Samples as the model will see them, then the shapes and types of a micro-batch."""
    from launcher.prepare import tokenizer

    folder = made.prepared / "tokenizer"
    words = tokenizer.load(str(folder), "tokenizer") if folder.is_dir() else None
    batches = run.batches.dataset
    samples = Table.grid(padding=(0, 2))
    for number, sample in enumerate(batches.shown(0, shown)):
        samples.add_row(f"[bold]sample {number}[/]", run.task.show(sample, words))
    console.print(samples)
    table = Table("micro-batch", "shape", "dtype", "range", box=None, pad_edge=False)
    for name, tensor in _flat(batches[0].micro_batches[0]):
        table.add_row(name, str(tuple(tensor.shape)), str(tensor.dtype), f"{tensor.min():g} … {tensor.max():g}")
    console.print(table)
    console.print(f"{type(run.engine.module).__name__} on {run.process.device}", highlight=False)
    console.print(f"global batch {made.plan.equation}", highlight=False)


def _flat(batch: dict[str, Any]) -> list[tuple[str, Any]]:
    return [pair for k, v in batch.items() for pair in (_flat(v) if isinstance(v, dict) else [(k, v)])]


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)
