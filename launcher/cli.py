"""The command line. For the exit codes (0, 1, 2, 69 and 75) see launcher.distributed.exit_codes."""

import os

import typer

from launcher.commands import authoring, planning, results, training, watching
from launcher.distributed import logs
from launcher.tools import command_exit, completion
from launcher.tools import command_options as options

app = typer.Typer(
    cls=options.Group,
    help="A distributed training launcher for encoders. The global batch is the contract: where and how a recipe runs "
    "never changes what it learns.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_PANELS = {
    "Recipes": authoring, "Before a run": planning, "Train": training, "Watch and stop": watching, "Results": results,
}  # fmt: skip


@app.callback()
def _program(version: options.Version = False, verbose: options.Verbose = False) -> None:
    """Options of the program itself."""
    if verbose:
        logs.set_verbose()


for _panel, _module in _PANELS.items():
    for _command in _module.COMMANDS:
        app.command(cls=options.Command, rich_help_panel=_panel)(_command)


def main() -> None:
    """Run the command that sys.argv names, and exit with its code."""
    completion.join_words(os.environ)
    command_exit.execute(app)


if __name__ == "__main__":
    main()
