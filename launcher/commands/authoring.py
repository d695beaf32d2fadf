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


class LearningTask(StrEnum):
    """What a new recipe learns."""

    classify = "classify"
    regression = "regression"
    pretrain = "pretrain"


NewData = Annotated[
    str | None, typer.Argument(metavar="DATA", help="A .csv, .tsv, .jsonl, .parquet or .txt, or a folder of texts.")
]
NewRecipe = Annotated[Path | None, typer.Option("--to", help="The recipe file to write (default: NAME.yaml).")]
Yes = Annotated[bool, typer.Option("--yes", help="Ask nothing: take the defaults.")]
TextColumn = Annotated[str | None, typer.Option("--text", metavar="COLUMN", help="The column of the text.")]
LabelColumn = Annotated[str | None, typer.Option("--label", metavar="COLUMN", help="The column to predict.")]
NewTask = Annotated[LearningTask | None, typer.Option("--task", help="What to learn (default: by the label).")]
NewModel = Annotated[
    str | None,
    typer.Option("--model", help="tiny, mini, small or base (from scratch), or a pretrained name or folder."),
]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the data.")]
NewName = Annotated[str | None, typer.Option("--name", help="The name of the run (default: that of the data).")]


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


def new(
    data: NewData = None,
    to: NewRecipe = None,
    yes: Yes = False,
    text: TextColumn = None,
    label: LabelColumn = None,
    task: NewTask = None,
    model: NewModel = None,
    epochs: Epochs = None,
    name: NewName = None,
) -> None:
    """Write a recipe for a data file, after at most five questions."""
    from launcher.tools.new import choices
    from launcher.tools.new import new as tool

    options = choices.Options(text, label, task.value if task else None, model, epochs, name)
    tool.new(data, to, yes, options, Console())


COMMANDS = (new, recipes, schema)
