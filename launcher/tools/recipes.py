"""The shipped recipes: listed, and copied to start from."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from launcher.config import load
from launcher.config.errors import UserError


def show(console: Console) -> None:
    """One row a recipe, its first comment line as what it is."""
    table = Table("recipe", "what", box=None, pad_edge=False)
    for file in load.shipped("recipes"):
        first = file.read_text(encoding="utf-8").partition("\n")[0]
        table.add_row(file.stem, first.lstrip("# ") if first.startswith("#") else "")
    console.print(table)


def copy(name: str, to: Path) -> Path:
    """A shipped recipe as a file of the user's. Raises UserError for an unknown name, or where `to` exists."""
    found = {file.stem: file for file in load.shipped("recipes")}
    if name not in found:
        raise UserError(f"{name}: no shipped recipe of this name (there are: {', '.join(found)})")
    target = to / f"{name}.yaml" if to.is_dir() else to
    if target.exists():
        raise UserError(f"{target}: is there already (name another file)")
    target.write_text(found[name].read_text(encoding="utf-8"), encoding="utf-8")
    return target
