"""Progress of a long command, as a bar on a terminal, otherwise as lines at intervals."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

INTERVAL = 30.0
"""Seconds between plain lines, and before the first one."""


@contextmanager
def progress(console: Console, what: str, total: int, every: float = INTERVAL) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that reports progress.

    Its arguments are the work done since its last call, in units of `total` (0: unknown), and the number of items done
    so far. `what`: a plural noun for the items. `every`: seconds between lines.
    """
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=total or None)
            yield lambda work, count: bar.update(task, advance=work, description=f"{count:,} {what}")
        return
    done, start = 0, time.monotonic()
    last = start

    def advance(work: int, count: int) -> None:
        nonlocal done, last
        done, now = done + work, time.monotonic()
        if now - last < every:
            return
        last = now
        share = min(1.0, done / total) if total else 0.0
        left = f", {share:.0%}, {(now - start) * (1 - share) / share:.0f} s left" if share else ""
        console.print(f"{count:,} {what}{left}", highlight=False, markup=False, soft_wrap=True)

    yield advance
