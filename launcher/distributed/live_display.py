"""A live display at the bottom of a terminal, which nothing that happens to its process can leave in disorder.

The cursor stays visible, above what is drawn. So the lines of other processes, such as the launcher's, push the display
down and are never overwritten, a resized terminal is erased completely, and a process that is killed has nothing to
restore. A frame is drawn between two control sequences by which the copy of the output in a rank's log omits it (see
launcher.distributed.output_streams).
"""

import os
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment

from launcher.distributed import output_streams

_FRAMES_PER_SECOND = 2.0


class Terminal(Console):
    """A console on standard output whose cursor is never hidden, and which knows the size of this very terminal."""

    def show_cursor(self, show: bool = True) -> bool:
        return False

    @property
    def draws(self) -> bool:
        """Whether a display can be drawn: on a terminal that moves its cursor."""
        return self.is_interactive and not self.is_dumb_terminal and self.file.isatty()

    def adopt_size(self) -> None:
        """Adopt the size of the terminal. rich asks the descriptors 0 to 2, which are no terminals in a rank."""
        with suppress(OSError, ValueError):
            size = os.get_terminal_size(self.file.fileno())
            if size.columns > 0 and size.lines > 0:
                self.size = size


class LiveDisplay(Live):
    """A display of what `content` returns, drawn twice a second below the cursor. Printed lines appear above it."""

    def __init__(self, console: Terminal, content: Callable[[], RenderableType]):
        self._terminal, self._content = console, content
        super().__init__(
            console=console, refresh_per_second=_FRAMES_PER_SECOND, get_renderable=content, redirect_stderr=False
        )

    def refresh(self) -> None:
        self._terminal.adopt_size()
        super().refresh()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Return what is printed, and the display below it."""
        with self._lock:
            return [_control(output_streams.ERASE), *renderables, _Frame(self._content())]

    def close(self) -> None:
        """Stop drawing, and leave the last frame in the place of the display."""
        self.stop()
        self.console.print(_control(output_streams.ERASE), self._content(), sep="")


class _Frame:
    """The lines of a display, from the cursor to the bottom of the terminal at most. The cursor returns to the first
    one."""

    def __init__(self, content: RenderableType):
        self._content = Group("", content)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        options = console.options  # those of a printed line may forbid to wrap
        lines = console.render_lines(self._content, options, pad=False)[: max(1, options.size.height - 2)]
        yield _control(output_streams.FRAME)
        for line in lines:
            yield from line
            yield Segment.line()
        yield _control(f"\x1b[{len(lines)}A\r")


def _control(sequence: str) -> Control:
    control = Control()
    control.segment = Segment(sequence, None, [(ControlType.CARRIAGE_RETURN,)])
    return control
