"""What `launcher status` prints, shown anew again and again."""

import io
import time
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console
from rich.text import Text

from launcher.distributed.live_display import LiveDisplay, Terminal

INTERVAL, QUEUE_INTERVAL = 2.0, 10.0
"""Seconds between two looks. A scheduler is asked less often, because other users share its queue."""


def watch(report: Callable[[Console], bool]) -> None:
    """Show a report until interrupted; without a terminal, print it each time. `report`: prints on a console, and
    returns whether it has asked a scheduler."""
    terminal = Terminal(highlight=False)
    with suppress(KeyboardInterrupt):
        if terminal.draws:
            _draw(report, terminal)
        while not terminal.draws:
            asked = report(terminal)
            terminal.print()
            terminal.file.flush()
            time.sleep(QUEUE_INTERVAL if asked else INTERVAL)


def _draw(report: Callable[[Console], bool], terminal: Terminal) -> None:
    """Draw the report on a terminal until interrupted. The last one remains there."""
    shown = Text()
    display = LiveDisplay(terminal, lambda: shown)
    try:
        display.start()
        while True:
            terminal.adopt_size()
            page = io.StringIO()
            asked = report(Console(file=page, width=terminal.width, force_terminal=True, color_system="standard"))
            shown = Text.from_ansi(page.getvalue())
            display.refresh()
            time.sleep(QUEUE_INTERVAL if asked else INTERVAL)
    finally:
        display.close()
