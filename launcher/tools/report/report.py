"""`launcher report`: write a page about runs, and its figures as pictures beside it."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from launcher.config.atomic_files import write, write_aside
from launcher.config.errors import UserError
from launcher.config.format import plural
from launcher.plan import writable_folders
from launcher.storage import disk_full
from launcher.tools.report import run_data
from launcher.tools.report.drawing import MOST_LINES
from launcher.tools.report.page import Page

_SEVERAL = Path("report/index.html")
"""Page of several runs, in the current folder."""
_INDEX = "index"


def report(runs: Sequence[str], to: Path | None, console: Console) -> None:
    """Write the page, RUN/report/index.html by default, or report/index.html for several runs. Raises UserError.

    The pictures come first, so that a page is never without them.
    """
    if len(runs) > MOST_LINES:
        raise UserError(f"{len(runs)} runs: a figure can tell at most {MOST_LINES} lines apart (name fewer)")
    if to is not None and to.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--to {to}: not the name of a page (give it the ending .html)")
    folders = [run_data.find(run) for run in dict.fromkeys(runs)]
    file = to or (folders[0].report / "index.html" if len(folders) == 1 else _SEVERAL)
    if file.is_dir():
        raise UserError(f"{file}: a folder has this name (name a file)")
    if problems := writable_folders.unusable(file.parent, f"the folder {file.parent}", "name another file with --to"):
        raise UserError([*problems])
    page = Page(run_data.read_all(folders))
    html = page.html()
    with disk_full.reported(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        prefix = "" if file.stem == _INDEX else f"{file.stem}-"
        for drawing in page.drawings:
            with write_aside(file.parent / f"{prefix}{drawing.name}.png", flushed=False) as aside:
                drawing.save(aside, "png")
        write(file, html)
    words = f"{file}, and {plural(len(page.drawings), 'picture')} beside it"
    console.print(words, highlight=False, markup=False, soft_wrap=True)
    missing = sum(len(run.problems) for run in page.runs)
    if missing:
        what = f"note: {plural(missing, 'file')} could not be read or was missing; the page says which"
        console.print(what, highlight=False, markup=False, soft_wrap=True)
