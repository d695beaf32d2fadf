"""`launcher recipes`: list the shipped recipes, or copy one."""

import re
from itertools import takewhile
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config import load
from launcher.config.errors import UserError


def show(console: Console) -> None:
    """Print one row for each recipe, with the first sentence of its comment."""
    table = Table("recipe", "what", box=None, pad_edge=False)
    for file in load.shipped("recipes"):
        table.add_row(escape(file.stem), escape(first_sentence(file.read_text(encoding="utf-8"))))
    console.print(table)


def first_sentence(recipe: str) -> str:
    """Return the first sentence of the comment at the beginning of a recipe. It may span several lines."""
    comment = takewhile(lambda line: line.startswith("#"), recipe.splitlines())
    text = " ".join(line.lstrip("# ") for line in comment)
    return re.split(r"(?<=[.?!])\s", text, maxsplit=1)[0]


def copy(name: str, to: Path) -> Path:
    """Copy a shipped recipe to a file or into a folder, and return the new file. Raises UserError for an unknown name,
    or if the file exists."""
    shipped = {file.stem: file for file in load.shipped("recipes")}
    if name not in shipped:
        raise UserError(f"{name}: no shipped recipe of this name (there are: {', '.join(shipped)})")
    target = to / f"{name}.yaml" if to.is_dir() else to
    if target.exists():
        raise UserError(f"{target}: is there already (name another file)")
    target.write_text(shipped[name].read_text(encoding="utf-8"), encoding="utf-8")
    return target
