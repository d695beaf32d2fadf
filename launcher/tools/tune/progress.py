"""Progress of a search, as lines on a console while the ranks measure."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from launcher.tuning import journal
from launcher.tuning.journal import Entry
from launcher.tuning.search import Space

_SECONDS = 0.5


@contextmanager
def following(folder: Path, space: Space, console: Console) -> Iterator[None]:
    """Print a line for each trial that ends inside the block, as the journal in the folder has it."""
    over = threading.Event()
    reader = threading.Thread(target=_follow, args=(folder, space, console, over), daemon=True)
    reader.start()
    try:
        yield
    finally:
        over.set()
        reader.join()


def _follow(folder: Path, space: Space, console: Console, over: threading.Event) -> None:
    printed, last = 0, False
    while not last:
        last = over.wait(_SECONDS)
        ended = [entry for entry in journal.read(folder) if entry.measured is not None]
        for entry in ended[printed:]:
            console.print(_line(entry, space), highlight=False, markup=False, soft_wrap=True)
        printed = len(ended)


def _line(entry: Entry, space: Space) -> str:
    """Return a line on a trial: when it ended, its setting, and its speed."""
    measured = entry.measured
    assert measured is not None
    speed = measured.wrong or f"{sum(measured.tokens) / sum(measured.seconds):,.0f} tokens/s"
    return f"{measured.clock:4.0f} s  {entry.trial.setting.label(space.written)}: {speed}"
