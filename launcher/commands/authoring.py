"""Commands that help to write a recipe."""

from pathlib import Path

from rich.console import Console

from launcher.tools import command_options as options


def recipes(copy: options.CopiedRecipe = None, to: options.CopyTarget = Path()) -> None:
    """List the shipped recipes, or copy one to start from."""
    from launcher.tools import recipes as tool

    if copy is None:
        tool.show(Console())
    else:
        print(tool.copy(copy, to))


COMMANDS = (recipes,)
