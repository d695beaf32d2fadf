"""What a user needs at the end of a run: its checkpoints with their metrics, whether it has learnt, what comes next."""

import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config import plugins
from launcher.config.strict_json import DamagedFile, shown
from launcher.prepare.run_setup import PreparedRun
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir, best

_MOST = 5
"""Metrics of a checkpoint that are shown."""
_LANGUAGE = ("mlm", "causal_lm")
_SOME, _STEPS, _TAIL = 16, 20, 1 << 16
"""Tables of training samples, last steps, and bytes at the end of the metrics that are looked through."""
_BASELINES = {
    "unigram_entropy": (
        "loss",
        1,
        "the unigram entropy of the texts, which token frequencies reach",
    ),
    "majority_class": ("accuracy", -1, "the share of the most frequent class, which always naming it reaches"),
    "mse_of_the_mean": ("mse", 1, "the variance of the labels, which always their mean reaches"),
}
"""Of each baseline: the metric that it is one of, whether more (1) or less (-1) is worse, and what it is."""


def of(run: PreparedRun, console: Console) -> None:
    """Of a run that is done."""
    task, baseline, trained = run.recipe.inner_task, run.facts.baseline, dict[str, float]()
    if "validation" not in run.facts.samples and run.recipe.task.kind in _LANGUAGE and run.prepared.is_dir():
        texts = islice(_tables(run.prepared / "train.arrow"), _SOME)
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
    """Of the folder of a run that is done. `baseline`: what frequencies alone would reach (see Facts); `exports`:
    whether it can become a folder for transformers; `trained`: the metrics of training where there is no evaluation. A
    damaged file is left to whoever asks for it."""
    whole = folder.whole()
    if not whole:
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    if (top := best(whole)) is not None:
        table.add_row("best checkpoint", escape(_of(top)))
    table.add_row("last checkpoint", escape(_of(whole[-1])))
    for number, words in enumerate(_next(folder, top is not None, exports)):
        table.add_row("" if number else "next", escape(words))
    console.print(table)
    for note in notes(_metrics(whole[-1]) or trained or {}, baseline):
        console.print(f"[yellow]note[/]: {escape(note)}", soft_wrap=True, highlight=False)


def notes(metrics: Mapping[str, float], baseline: Mapping[str, float]) -> list[str]:
    """Where the last evaluation is no better than what needs no model."""
    found = []
    for name, value in baseline.items():
        metric, worse, what = _BASELINES.get(name, ("", 1, ""))
        reached = metrics.get(metric)
        if reached is not None and worse * (reached - value) > 0:
            side = "above" if worse > 0 else "below"
            found.append(
                f"{metric} {reached:.4g} at the end is {side} {value:.4g}, {what}: the model has learnt nothing that "
                "holds there (other steps or another optimizer.lr, or a fault in the data or the loss: launcher debug)"
            )
    return found


def _training_loss(folder: RunDir) -> dict[str, float]:
    """The mean loss of the last steps."""
    losses = list[float]()
    with suppress(DamagedFile):
        losses = [line["loss"] for line in folder.lines(last=_TAIL) if line.get("loss") is not None]
    return {"loss": fmean(losses[-_STEPS:])} if losses else {}


def _tables(file: Path) -> Iterator[Any]:
    """The samples of one side of a prepared folder, some at a time."""
    import pyarrow as pa

    with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
        for batch in stream:
            yield pa.Table.from_batches([batch])


def _of(saved: SavedCheckpoint) -> str:
    """The step of a checkpoint, its metrics and its folder."""
    told = [f"{shown(name.replace('_', ' '))} {value:.4g}" for name, value in _metrics(saved).items()]
    more = f": {', '.join(told[:_MOST])}" if told else ""
    return f"step {saved.step}{more} ({saved.path})"


def _metrics(saved: SavedCheckpoint) -> dict[str, float]:
    """Those of the evaluation that the checkpoint was made at, without those of single classes."""
    found: dict[str, Any] = {}
    with suppress(DamagedFile):
        found = saved.state.get("evaluation", {})
    plain = {name.removeprefix("eval/"): value for name, value in found.items() if name.count("/") == 1}
    return {name: value for name, value in plain.items() if math.isfinite(value)}


def _next(folder: RunDir, evaluated: bool, exports: bool) -> list[str]:
    run = shlex.quote(str(folder.path))
    return [
        *([f"launcher evaluate {run}"] if evaluated else []), f"launcher predict {run} --data FILE",
        *([f"launcher export {run}"] if exports else []),
    ]  # fmt: skip
