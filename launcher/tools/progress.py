"""Progress of a long command on standard error: a bar on a terminal, elsewhere a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

QUIET = 30.0
"""Seconds between plain lines, and before the first."""


@contextmanager
def progress(console: Console, what: str, total: int, every: float = QUIET) -> Iterator[Callable[[int, int], None]]:
    """A function that is called with the work done since its last call, in units of `total` (0: unknown), and with the
    number of things done so far, which is shown as `what`."""
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=total or None)
            yield lambda work, count: bar.update(task, advance=work, description=f"{count:,} {what}")
        return
    done, begun = 0, time.monotonic()
    last = begun

    def advance(work: int, count: int) -> None:
        nonlocal done, last
        done, now = done + work, time.monotonic()
        if now - last < every:
            return
        last = now
        share = min(1.0, done / total) if total else 0.0
        left = f", {share:.0%}, {(now - begun) * (1 - share) / share:.0f} s left" if share else ""
        console.print(f"{count:,} {what}{left}", highlight=False, markup=False, soft_wrap=True)

    yield advance
