"""Commands that show runs and their logs, stop them, or cancel their jobs."""

from typing import Annotated

import typer
from rich.console import Console

from launcher.tools import command_options as options

Rank = Annotated[int | None, typer.Option("--rank", min=0, help="Print the log of this rank alone.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Print what is added, until the run ends.")]
Watch = Annotated[bool, typer.Option("--watch", help="Show it anew every few seconds, until interrupted.")]
LastLines = Annotated[int, typer.Option("--lines", "-n", min=0, help="Last lines to print (0: all).")]


def status(
    runs: options.AnyRunFolders = None, json: options.Json = False, watch: Watch = False, trust: options.Trust = None
) -> None:
    """Show the state and progress of runs; for one run, the history of its job."""
    from launcher.tools.status import status as tool

    tool.status(runs or [], json, Console(), watch)


def logs(
    run: options.RunFolder,
    rank: Rank = None,
    follow: Follow = False,
    lines: LastLines = 100,
    trust: options.Trust = None,
) -> None:
    """Print the logs of a run's ranks, nodes and jobs, in the order of their times."""
    from launcher.tools import run_logs as tool

    tool.logs(run, rank, follow, lines, Console())


def stop(run: options.RunningRun, wait: options.Wait = True, trust: options.Trust = None) -> None:
    """Let a run save and leave, wherever it trains, and wait until it has. A job that waits in a queue is cancelled."""
    from launcher.tools import stop as tool

    raise typer.Exit(tool.stop(run, wait, Console()))


def cancel(run: options.SubmittedRun, trust: options.Trust = None) -> None:
    """Cancel a run's job, waiting or running. A running one saves a checkpoint first."""
    from launcher.tools import cancel as tool

    tool.cancel(run, Console())


COMMANDS = (status, logs, stop, cancel)
