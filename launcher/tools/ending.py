"""What a user needs at the end of a run: its checkpoints with their metrics, whether it has learnt, what comes next."""

import math
import shlex
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config.json_files import Damaged, shown
from launcher.plan.folder import RunFolder, Saved, best

_MOST = 5
"""Metrics of a checkpoint that are shown."""
_BASELINES = {
    "unigram_entropy": (
        "loss",
        1,
        "the unigram entropy of the validation texts, which token frequencies reach",
    ),
    "majority_class": ("accuracy", -1, "the share of the most frequent class, which always naming it reaches"),
    "mse_of_the_mean": ("mse", 1, "the variance of the labels, which always their mean reaches"),
}
"""Of each baseline: the metric that it is one of, whether more (1) or less (-1) is worse, and what it is."""


def show(folder: RunFolder, baseline: Mapping[str, float], exports: bool, console: Console) -> None:
    """Of a run that is done. `baseline`: what frequencies alone would reach (see Facts); `exports`: whether it can
    become a folder for transformers. A damaged file is left to whoever asks for it."""
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
    for note in notes(_metrics(whole[-1]), baseline):
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
                f"{metric} {reached:.4g} at the end is {side} {value:.4g}, {what}: the model has learnt nothing yet "
                "(more steps, another optimizer.lr, or something between data and loss is wrong: launcher debug)"
            )
    return found


def _of(saved: Saved) -> str:
    """The step of a checkpoint, its metrics and its folder."""
    told = [f"{shown(name.replace('_', ' '))} {value:.4g}" for name, value in _metrics(saved).items()]
    more = f": {', '.join(told[:_MOST])}" if told else ""
    return f"step {saved.step}{more} ({saved.path})"


def _metrics(saved: Saved) -> dict[str, float]:
    """Those of the evaluation that the checkpoint was made at, without those of single classes."""
    found: dict[str, Any] = {}
    with suppress(Damaged):
        found = saved.state.get("evaluation", {})
    plain = {name.removeprefix("eval/"): value for name, value in found.items() if name.count("/") == 1}
    return {name: value for name, value in plain.items() if math.isfinite(value)}


def _next(folder: RunFolder, evaluated: bool, exports: bool) -> list[str]:
    run = shlex.quote(str(folder.path))
    return [
        *([f"launcher evaluate {run}"] if evaluated else []), f"launcher predict {run} --data FILE",
        *([f"launcher export {run}"] if exports else []),
    ]  # fmt: skip
