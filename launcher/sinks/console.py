"""A live display of the run on a terminal; plain lines if the output is no terminal."""

import logging
import math
import time
from typing import Literal

from rich.markup import escape

from launcher import sinks
from launcher.config.types import Plugin
from launcher.distributed.live_display import LiveDisplay, Terminal
from launcher.plan.run_estimates import remaining
from launcher.sinks import Record, RunInfo
from launcher.sinks._run_view import RunView, StepPace, WarningHandler


class Config(Plugin):
    """Progress on the terminal."""

    kind: Literal["console"] = "console"
    every: float = 10.0
    """Seconds between lines if the output is no terminal."""


class Sink(sinks.Sink[Config]):
    def __init__(self, config: Config, about: RunInfo):
        self._every, self._steps = config.every, about.steps
        self._rich = Terminal(highlight=False)
        self._seconds, self._tokens, self._speed, self._printed_at = about.seconds, about.tokens, 0.0, -math.inf
        self._skipped, self._overflows, self._pace = about.skipped, about.overflows, StepPace()
        start = f", from step {about.start}" if about.start else ""
        self._say(f"[bold]{escape(about.name)}[/]: {about.steps} steps{start}; global batch {escape(about.equation)}")
        for note in about.notes:
            self._say(f"[yellow]note[/]: {escape(note)}")
        self._view: RunView | None = None
        if self._rich.draws:
            self._view = RunView(about, self._pace)
            self._display = LiveDisplay(self._rich, self._view.content)
            self._warnings = WarningHandler()
            logging.getLogger("launcher").addHandler(self._warnings)
            self._display.start(refresh=True)

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
        self._warn_of_trouble(record)
        if self._view is not None:
            self._view.train(record, self._speed)
        elif time.monotonic() - self._printed_at >= self._every or record["step"] == self._steps:
            self._printed_at = time.monotonic()
            text = f"loss {record['loss']:.4f}  lr {record['lr']:.2e}  {self._speed:,.0f} tokens/s"
            left = remaining(self._pace.seconds(self._steps - record["step"]))
            self._say(f"step {record['step']:>6}/{self._steps}  {text}  {left} left")

    def _warn_of_trouble(self, record: Record) -> None:
        """Print a warning about steps without an update and steps repeated with a smaller loss scale."""
        if record.get("skipped", 0) > self._skipped:
            self._warn(record["step"], "skipped", "the gradient was not finite, nothing was updated")
        if record.get("overflows", 0) > self._overflows:
            self._warn(record["step"], "overflow", f"taken again with loss scale {record['scale']:g}")
        self._skipped, self._overflows = record.get("skipped", 0), record.get("overflows", 0)

    def _warn(self, step: int, name: str, text: str) -> None:
        self._say(f"step {step:>6}  [yellow]{name}[/]: {text}")
        if self._view is not None:
            self._view.warn(step, f"{name}: {text}")

    def close(self, finished: bool) -> None:
        if self._view is not None:
            logging.getLogger("launcher").removeHandler(self._warnings)
            self._view.over = True
            self._display.close()

    def _say(self, text: str) -> None:
        self._rich.print(text, soft_wrap=True)
        self._rich.file.flush()
