"""A progress bar with loss, tokens/s and remaining time; plain lines if the output is no terminal."""

import math
import statistics
import time
from collections import deque
from typing import Literal

from rich.console import Console as Rich
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from launcher import sinks
from launcher.config.types import Plugin
from launcher.plan.run_estimates import duration
from launcher.sinks import Record, RunInfo

_RECENT, _OUTLIER = 100, 5
"""Number of recent steps from which the remaining time is estimated, and the maximum time of a step relative to their
median."""


class Config(Plugin):
    """Progress on the terminal."""

    kind: Literal["console"] = "console"
    every: float = 10.0
    """Seconds between lines if the output is no terminal."""


class StepPace:
    """The durations of recent steps. Outliers are limited.

    The first step of a start is left out, because it may include compilation.
    """

    def __init__(self) -> None:
        self._recent, self._first = deque[float](maxlen=_RECENT), True

    def add(self, seconds: float) -> None:
        if len(self._recent) == 1 and self._first:
            self._recent.clear()
            self._first = False
        self._recent.append(seconds)

    def left(self, steps: int) -> str:
        """Return the expected duration of so many steps as text."""
        limit = _OUTLIER * statistics.median(self._recent)
        seconds = steps * statistics.fmean(min(each, limit) for each in self._recent)
        return f"{seconds:.0f} s" if seconds < 120 else duration(seconds)


class Sink(sinks.Sink[Config]):
    def __init__(self, config: Config, about: RunInfo):
        self._every, self._steps = config.every, about.steps
        self._rich = Rich(highlight=False)
        self._seconds, self._tokens, self._speed, self._printed_at = about.seconds, about.tokens, 0.0, -math.inf
        self._skipped, self._overflows, self._pace = about.skipped, about.overflows, StepPace()
        start = f", from step {about.start}" if about.start else ""
        self._say(f"[bold]{escape(about.name)}[/]: {about.steps} steps{start}; global batch {escape(about.equation)}")
        for note in about.notes:
            self._say(f"[yellow]note[/]: {escape(note)}")
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if self._rich.is_terminal:
            columns = (
                TextColumn("step {task.completed:.0f}/{task.total:.0f}"), BarColumn(), TextColumn("{task.description}"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            )  # fmt: skip
            self._bar = Progress(*columns, console=self._rich)
            self._task = self._bar.add_task("", total=about.steps, completed=about.start)
            self._bar.start()

    def write(self, record: Record) -> None:
        if "loss" in record:
            self._train(record)
        else:
            names = [key for key in record if key.startswith("eval/") and key.count("/") == 1]
            values = "  ".join(f"{escape(key.removeprefix('eval/'))} {record[key]:.4g}" for key in names)
            self._say(f"step {record['step']:>6}  [bold]evaluation[/]  {values}")

    def _train(self, record: Record) -> None:
        tokens, seconds = record["tokens"] - self._tokens, record["seconds"] - self._seconds
        self._tokens, self._seconds = record["tokens"], record["seconds"]
        now = tokens / seconds if seconds > 0 else 0.0
        self._speed = 0.9 * self._speed + 0.1 * now if self._speed else now
        self._pace.add(seconds)
        text = f"loss {record['loss']:.4f}  lr {record['lr']:.2e}  {self._speed:,.0f} tokens/s"
        self._warn_of_trouble(record)
        if self._bar is not None:
            self._bar.update(self._task, completed=record["step"], description=text)
        elif time.monotonic() - self._printed_at >= self._every or record["step"] == self._steps:
            self._printed_at = time.monotonic()
            left = self._pace.left(self._steps - record["step"])
            self._say(f"step {record['step']:>6}/{self._steps}  {text}  {left} left")

    def _warn_of_trouble(self, record: Record) -> None:
        """Print a warning about steps without an update and steps repeated with a smaller loss scale."""
        if record.get("skipped", 0) > self._skipped:
            self._say(f"step {record['step']:>6}  [yellow]skipped[/]: the gradient was not finite, nothing was updated")
        if record.get("overflows", 0) > self._overflows:
            self._say(f"step {record['step']:>6}  [yellow]overflow[/]: taken again with loss scale {record['scale']:g}")
        self._skipped, self._overflows = record.get("skipped", 0), record.get("overflows", 0)

    def close(self, finished: bool) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _say(self, text: str) -> None:
        self._rich.print(text, soft_wrap=True)
        self._rich.file.flush()
