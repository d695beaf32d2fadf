"""What the live display of a run shows: its progress, its speed, its next save, memory, and its last warnings."""

import logging
import statistics
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launcher import sinks
from launcher.config.strict_json import DamagedFile, shown
from launcher.config.training import Checkpoint
from launcher.plan.run_estimates import remaining
from launcher.sinks import Record, RunInfo
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir

_RECENT, _OUTLIER = 100, 5
"""Number of recent steps from which the remaining time is estimated, and the maximum time of a step relative to their
median."""
_WARNINGS, _LONGEST_WARNING = 4, 240
_CELL = 25
"""Columns of a value with its name: three of them fit 80."""
_FOLDER_SECONDS = 5.0
"""Seconds between two looks at the checkpoints of the run."""
_QUIET_SECONDS = 10.0
"""Seconds without a step, at least, after which the display says so."""
_GIB = 1 << 30


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

    def seconds(self, steps: int) -> float:
        """Return the expected duration of so many steps."""
        limit = _OUTLIER * self.median
        return steps * statistics.fmean(min(each, limit) for each in self._recent)

    @property
    def median(self) -> float:
        """Seconds of a usual step; 0: none was taken."""
        return statistics.median(self._recent) if self._recent else 0.0


class WarningHandler(logging.Handler):
    """Passes the warnings of the launcher's log to the display."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        sinks.warnings.append(record.getMessage())


@dataclass
class RunView:
    """The state of a run as rank 0 knows it.

    `pace`: of its steps. `record`: the last training record, at `recorded` on the monotonic clock. `speed`: tokens per
    second of all ranks. `warnings`: the last ones, each with the step after which it came. `over`: the start has ended,
    and nothing is expected any more.
    """

    about: RunInfo
    pace: StepPace
    record: Record = field(default_factory=dict)
    recorded: float = field(default_factory=time.monotonic)
    speed: float = 0.0
    warnings: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=_WARNINGS))
    over: bool = False
    _first: tuple[float, float] | None = None
    _begun: float = field(default_factory=time.monotonic)
    _looked: float = -_FOLDER_SECONDS
    _saved: tuple[int, float] | None = None
    _restarts: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        checkpoint = self.about.recipe.get("checkpoint") or {}
        self._every, self._interval = checkpoint.get("every"), Checkpoint.model_validate(checkpoint).interval
        self._read_restarts()

    def _read_restarts(self) -> None:
        """Count the restarts and hangs of the present start, and keep the last of each in view."""
        events = list[job_log.Event]()
        with suppress(DamagedFile, OSError):
            events = job_log.read(RunDir(self.about.folder))
        begun = max((i for i, event in enumerate(events) if event["event"] == "started"), default=0)
        found = [event for event in events[begun:] if event["event"] in ("restarted", "hang")]
        restarts = sum(event["event"] == "restarted" for event in found)
        self._restarts = restarts, len(found) - restarts
        for event in found[-2:]:
            what = "restarted" if event["event"] == "restarted" else "hang"
            self.warnings.append((int(event.get("step") or 0), f"{what}: {event.get('error') or event.get('why', '')}"))

    @property
    def step(self) -> int:
        return int(self.record.get("step", self.about.start))

    def train(self, record: Record, speed: float) -> None:
        """Adopt the record of a step."""
        self.record, self.speed, self.recorded = record, speed, time.monotonic()
        self._first = self._first or (self.recorded, record["seconds"])

    def _seconds(self, steps: int) -> float:
        """Return the expected duration of so many steps, with the evaluations and saves between them, as there were up
        to now."""
        begun, before = self._first or (self.recorded, 0.0)
        trained = self.record["seconds"] - before
        return self.pace.seconds(steps) * (max(1.0, (self.recorded - begun) / trained) if trained > 0 else 1.0)

    def warn(self, step: int, text: str) -> None:
        """Keep a warning in view."""
        self.warnings.append((step, text))

    def content(self) -> RenderableType:
        """Return the display."""
        while sinks.warnings:
            self.warn(self.step, sinks.warnings.popleft())
        parts: list[RenderableType] = [self._bar()]
        cells = [Text.assemble((f"{name} ", "dim"), (value, style)) for name, value, style in self._values()]
        parts.append(Columns(cells, width=_CELL, padding=(0, 1)))
        for step, text in self.warnings:
            line = f"step {step:,}: " if step else ""
            parts.append(Text(f"! {line}{shown(text, _LONGEST_WARNING)}", style="yellow"))
        return Group(*parts)

    def _bar(self) -> RenderableType:
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1, min_width=4)
        grid.add_column(no_wrap=True, justify="right")
        steps, share = self.about.steps, self.step / max(1, self.about.steps)
        name = f"[bold]{escape(shown(self.about.name, 24))}[/]"
        grid.add_row(name, f"step {self.step:,}/{steps:,}", ProgressBar(steps, self.step), f"{int(100 * share)}%")
        return grid

    def _values(self) -> list[tuple[str, str, str]]:
        """Return the name, the value and the style of everything that is known now."""
        record, since = self.record, time.monotonic() - self.recorded
        found = list[tuple[str, str, str]]()
        if record:
            found += [
                ("loss", f"{record['loss']:.4f}", "bold"), ("lr", f"{record['lr']:.2e}", ""),
                ("tokens/s", f"{self.speed:,.0f}", ""),
            ]  # fmt: skip
            found += self._times(since)
        else:
            found.append(("first step", f"awaited for {remaining(since)}", ""))
        found += [
            (name, f"{record[key]:.1%}", "") for name, key in (("MFU", "mfu"), ("goodput", "goodput")) if key in record
        ]
        found += self._memory()
        restarts, hangs = self._restarts
        found += [("restarts", str(restarts), "yellow")] if restarts else []
        found += [("hangs", str(hangs), "yellow")] if hangs else []
        if record and not self.over and since > max(_QUIET_SECONDS, _OUTLIER * self.pace.median):
            found.append(("no step for", remaining(since), "yellow"))
        return found

    def _times(self, since: float) -> list[tuple[str, str, str]]:
        """Return the time to the end, the last save and the time to the next. `since`: seconds since the last step."""
        self._look_for_saves()
        saved = [("saved step", f"{self._saved[0]:,}", "")] if self._saved else []
        if self.over:
            return saved
        left = max(0.0, self._seconds(self.about.steps - self.step) - since)
        at = time.strftime("%H:%M" if left < 43200 else "%a %H:%M", time.localtime(time.time() + left))
        found = [("left", f"{remaining(left)} ({at})", "bold")]
        until = None
        if isinstance(self._every, int):
            until = self._seconds(self._every - self.step % self._every) - since
        elif self._interval is not None:
            until = self._interval - (time.time() - self._saved[1] if self._saved else time.monotonic() - self._begun)
        if until is not None:
            found.append(("next save", remaining(min(left, max(0.0, until))), ""))
        return found + saved

    def _look_for_saves(self) -> None:
        """Adopt the step and the time of the newest checkpoint, from time to time."""
        if time.monotonic() - self._looked < _FOLDER_SECONDS and not self.over:
            return
        self._looked = time.monotonic()
        if whole := RunDir(self.about.folder).whole():
            with suppress(OSError):
                self._saved = whole[-1].step, whole[-1].path.stat().st_mtime

    def _memory(self) -> list[tuple[str, str, str]]:
        found = list[tuple[str, str, str]]()
        if "memory_reserved" in self.record:
            found.append(("device memory", f"{self.record['memory_reserved'] / _GIB:.1f} GiB", ""))
        with suppress(psutil.Error, OSError):
            host = psutil.virtual_memory()
            used = f"{(host.total - host.available) / _GIB:.0f}/{host.total / _GIB:.0f} GiB"
            found.append(("host memory", used, "yellow" if host.percent > 90 else ""))
        return found
