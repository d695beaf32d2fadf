"""Commands that help to write a recipe."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from launcher.tools import command_options as options


class ConfigurationFile(StrEnum):
    """Files that have a schema."""

    recipe = "recipe"
    cluster = "cluster"


SchemaFile = Annotated[ConfigurationFile, typer.Argument(metavar="recipe|cluster", help="Which files.")]
SchemaTarget = Annotated[Path | None, typer.Option("--to", help="A file to write (default: print it).")]


def recipes(copy: options.CopiedRecipe = None, to: options.CopyTarget = Path()) -> None:
    """List the shipped recipes, or copy one to start from."""
    from launcher.tools import recipes as tool

    if copy is None:
        tool.show(Console())
    else:
        print(tool.copy(copy, to))


def schema(file: SchemaFile = ConfigurationFile.recipe, to: SchemaTarget = None) -> None:
    """Print the JSON Schema of recipes or cluster profiles, by which an editor completes and checks keys."""
    import json

    from launcher.config import atomic_files
    from launcher.tools import schema as tool

    text = json.dumps(tool.schema(file.value), indent=1) + "\n"
    if to is None:
        print(text, end="")
    else:
        atomic_files.write(to, text)


COMMANDS = (recipes, schema)
