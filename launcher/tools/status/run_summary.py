"""The summary at the end of a run: checkpoints with metrics, next commands, and a comparison with baselines."""

import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config import plugins
from launcher.config.strict_json import DamagedFile, shown
from launcher.prepare.run_setup import PreparedRun
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir, best

if TYPE_CHECKING:
    import pyarrow as pa

_METRICS = 5
"""Maximum number of metrics to show for a checkpoint."""
_LANGUAGE = ("mlm", "causal_lm")
_TABLES, _STEPS, _TAIL = 16, 20, 1 << 16
"""Maximum number of tables of training samples, of last steps, and of bytes at the end of the metrics, to read."""
BASELINES = {
    "unigram_entropy": (
        "loss",
        1,
        "the unigram entropy of the texts, which token frequencies reach",
    ),
    "majority_class": ("accuracy", -1, "the share of the most frequent class, which always naming it reaches"),
    "mse_of_the_mean": ("mse", 1, "the variance of the labels, which always their mean reaches"),
}
"""For each baseline: its metric, the sign of a worse value (1: larger; -1: smaller), and a description."""


def summarize(run: PreparedRun, console: Console) -> None:
    """Print the summary of a finished run."""
    task, baseline, trained = run.recipe.inner_task, run.facts.baseline, dict[str, float]()
    if "validation" not in run.facts.samples and run.recipe.task.kind in _LANGUAGE and run.prepared.is_dir():
        texts = islice(_tables(run.prepared / "train.arrow"), _TABLES)
        baseline = plugins.task(task).baseline(task, texts, run.facts.special_ids)
        trained = _training_loss(run.folder)
    show(run.folder, baseline, (run.folder.model / "config.json").is_file(), console, trained)


def show(
    folder: RunDir,
    baseline: Mapping[str, float],
    exports: bool,
    console: Console,
    trained: Mapping[str, float] | None = None,
) -> None:
    """Print the summary of the folder of a finished run. Damaged files are ignored.

    `baseline`: see launcher.plan.facts.Facts. `exports`: whether `launcher export` can write the model for
    transformers. `trained`: training metrics, for a run without evaluations.
    """
    whole = folder.whole()
    if not whole:
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    if (top := best(whole)) is not None:
        table.add_row("best checkpoint", escape(_describe(top)))
    table.add_row("last checkpoint", escape(_describe(whole[-1])))
    for number, words in enumerate(_next_commands(folder, top is not None, exports)):
        table.add_row("" if number else "next", escape(words))
    console.print(table)
    for note in notes(_metrics(whole[-1]) or trained or {}, baseline):
        console.print(f"[yellow]note[/]: {escape(note)}", soft_wrap=True, highlight=False)


def notes(metrics: Mapping[str, float], baseline: Mapping[str, float]) -> list[str]:
    """Return a note for each metric that is worse than its baseline."""
    worse_than = []
    for name, value in baseline.items():
        metric, worse, what = BASELINES.get(name, ("", 1, ""))
        reached = metrics.get(metric)
        if reached is not None and worse * (reached - value) > 0:
            side = "above" if worse > 0 else "below"
            worse_than.append(
                f"{metric} {reached:.4g} at the end is {side} {value:.4g}, {what}: the model has learnt nothing that "
                "holds there (other steps or another optimizer.lr, or a fault in the data or the loss: launcher debug)"
            )
    return worse_than


def _training_loss(folder: RunDir) -> dict[str, float]:
    """Return the mean loss of the last steps, by name; empty: there is none."""
    losses = list[float]()
    with suppress(DamagedFile):
        losses = [line["loss"] for line in folder.lines(last=_TAIL) if line.get("loss") is not None]
    return {"loss": fmean(losses[-_STEPS:])} if losses else {}


def _tables(file: Path) -> "Iterator[pa.Table]":
    """Yield the samples of one side of a prepared folder, batch by batch."""
    import pyarrow as pa

    with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
        for batch in stream:
            yield pa.Table.from_batches([batch])


def _describe(saved: SavedCheckpoint) -> str:
    metrics = [f"{shown(name.replace('_', ' '))} {value:.4g}" for name, value in _metrics(saved).items()]
    some = f": {', '.join(metrics[:_METRICS])}" if metrics else ""
    return f"step {saved.step}{some} ({saved.path})"


def _metrics(saved: SavedCheckpoint) -> dict[str, float]:
    """Return the finite metrics of the evaluation at a checkpoint, without those of single classes."""
    evaluation: dict[str, float] = {}
    with suppress(DamagedFile):
        evaluation = saved.state.get("evaluation", {})
    plain = {name.removeprefix("eval/"): value for name, value in evaluation.items() if name.count("/") == 1}
    return {name: value for name, value in plain.items() if math.isfinite(value)}


def _next_commands(folder: RunDir, evaluated: bool, exports: bool) -> list[str]:
    run = shlex.quote(str(folder.path))
    return [
        *([f"launcher evaluate {run}"] if evaluated else []), f"launcher predict {run} --data FILE",
        *([f"launcher export {run}"] if exports else []),
    ]  # fmt: skip
