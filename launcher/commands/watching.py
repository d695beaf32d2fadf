"""Commands that show runs, stop them, or cancel their jobs."""

import typer
from rich.console import Console

from launcher.tools import command_options as options


def status(runs: options.AnyRunFolders = None, json: options.Json = False, trust: options.Trust = None) -> None:
    """Show the state and progress of runs; for one run, the history of its job."""
    from launcher.tools.status import status as tool

    tool.status(runs or [], json, Console())


def stop(run: options.RunningRun, wait: options.Wait = True, trust: options.Trust = None) -> None:
    """Let a run save and leave, wherever it trains, and wait until it has. A job that waits in a queue is cancelled."""
    from launcher.tools import stop as tool

    raise typer.Exit(tool.stop(run, wait, Console()))


def cancel(run: options.SubmittedRun, trust: options.Trust = None) -> None:
    """Cancel a run's job, waiting or running. A running one saves a checkpoint first."""
    from launcher.tools import cancel as tool

    tool.cancel(run, Console())


COMMANDS = (status, stop, cancel)
