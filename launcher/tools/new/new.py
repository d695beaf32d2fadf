"""`launcher new`: write a recipe for a data file."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from launcher.config import load
from launcher.config.atomic_files import write
from launcher.config.errors import UserError, shown
from launcher.config.format import plural
from launcher.health import services
from launcher.tools.new import choices, columns, data_files, recipe_text


def new(data: str | None, to: Path | None, yes: bool, options: choices.Options, console: Console) -> None:
    """Look at the data, ask what it does not show, write the recipe, and print the next commands. `yes`: ask nothing.
    Raises UserError."""
    asks = None if yes or not (sys.stdin.isatty() and sys.stdout.isatty()) else _ask
    if data is None and asks is None:
        raise UserError("DATA: missing (a .csv, .tsv, .jsonl, .parquet or .txt file, or a folder of texts)")
    if data is None:
        data = _ask("Data file", "", lambda answer: None if Path(answer).exists() and answer else "no such file")
    source = data_files.source(data)
    table = columns.survey(data_files.rows(source))
    _show(table, console)
    chosen = choices.choose(table, data, options, asks, offline=_without_hub(options, console))
    file = to or Path(f"{chosen.name}.yaml")
    _check_free(file, asks is not None)
    text = recipe_text.text(data, source, table, chosen)
    _check(text)
    write(file, text)
    _next(file, chosen, console)


def _without_hub(options: choices.Options, console: Console) -> bool:
    """Return whether no pretrained model can be downloaded, and print why if a model is still to be chosen."""
    if services.is_offline():
        return True
    if options.model is not None or (error := services.hub_error()) is None:
        return False
    why = f"{error}: the default is a model from scratch (a pretrained one: --model FOLDER)"
    console.print(why, markup=False, highlight=False)
    return True


def _show(table: columns.Table, console: Console) -> None:
    read = plural(table.rows, "row") + ("" if table.whole else " (the first ones)")
    console.print(f"{read}, {plural(len(table.columns), 'column')}", highlight=False)
    for column in list(table.columns.values())[:20]:
        kind = "text" if column.is_text else "lists" if column.others else "number"
        tokens = f", about {sum(column.tokens) // len(column.tokens):,} tokens each" if column.is_text else ""
        empty = f", {column.empty:,} empty" if column.empty else ""
        values = f"{len(column.values):,} different values"
        console.print(f"  {escape(shown(column.name))}: {kind}, {values}{tokens}{empty}", highlight=False)


def _ask(question: str, default: str, mistake: Callable[[str], str | None]) -> str:
    """Ask until the answer is valid. Raises UserError at the end of the input."""
    while True:
        try:
            answer = input(f"{question}{f' [{shown(default)}]' if default else ''}: ").strip() or default
        except EOFError:
            raise UserError("no answer (--yes takes the defaults)") from None
        if (wrong := mistake(answer)) is None:
            return answer
        print(f"  {wrong}")


def _check_free(file: Path, asks: bool) -> None:
    """Raise UserError if the file exists and nobody allows to replace it."""
    if not os.path.lexists(file):
        return
    if not asks or _ask(f"{shown(str(file))} exists. Replace it? yes or no", "no", _yes_or_no) == "no":
        raise UserError(f"{shown(str(file))}: is there already (name another file by --to)")


def _yes_or_no(answer: str) -> str | None:
    return None if answer in ("yes", "no") else "yes or no"


def _check(text: str) -> None:
    """Load the recipe as a command would. Raises UserError."""
    with tempfile.TemporaryDirectory(prefix="launcher-new-") as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(text, encoding="utf-8")
        load.recipe(file)


def _next(file: Path, chosen: choices.Choices, console: Console) -> None:
    label = f" from {shown(chosen.text.name)}: {shown(chosen.label.name)}" if chosen.label is not None else ""
    console.print(
        f"wrote {escape(shown(str(file)))} ({chosen.task}{escape(label)}, model {escape(shown(chosen.model))})"
    )
    for command, what in (
        (f"launcher plan {file}", "every number, and what may be wrong"),
        (f"launcher debug {file}", "what the model gets"),
        (f"launcher run {file}", "train"),
    ):
        console.print(f"  {escape(shown(command)):<40} # {what}", highlight=False, soft_wrap=True)
