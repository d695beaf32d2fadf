"""`launcher stop`: ask a run to save and leave, wherever it trains, and wait until it has."""

import time

from rich.console import Console

from launcher.config.errors import UserError
from launcher.distributed.exit_codes import DONE, FAILED
from launcher.storage import stop_file
from launcher.storage.run_dir import RunDir
from launcher.tools import cancel
from launcher.tools.status import run_status
from launcher.tools.status.run_events import JobSchedulers
from launcher.tools.status.run_status import RunStatus

_INTERVAL = 1.0
"""Seconds between two looks at the run. A scheduler is asked less often, because other users share its queue."""
_QUEUE_INTERVAL = 5.0
_SECONDS_TO_RECORD = 15.0
"""Seconds in which a launcher records how its ranks have ended, and within which a lease of another machine ends."""
_WAITS = ("pending", "requeued")
_LEFT = ("stopped", "made way", "done")
"""States of a run that has left with everything saved."""


def stop(run: str, wait: bool, console: Console) -> int:
    """Ask a running run to save and leave, or cancel a job that waits in its queue. Returns the exit code.

    `wait`: wait until it has left, and say which step is saved. Raises UserError if nothing runs there.
    """
    folder = run_status.find_run(run)
    status = _status(folder)
    if status.state.name in _WAITS:
        cancel.cancel(run, console)
        return DONE
    if status.state.name != "running":
        raise UserError(f"{folder.path}: nothing runs there: it is {status.state.name}")
    try:
        stop_file.write(folder)
    except OSError as error:
        raise UserError(f"{folder.path}: no file can be written there: {error.strerror}") from None
    _print(console, f"{folder.path}: it saves a checkpoint at the end of its step, and leaves")
    return _wait(folder, status, console) if wait else DONE


def _wait(folder: RunDir, status: RunStatus, console: Console) -> int:
    """Wait until the run has left, however long it saves. Returns the exit code."""
    pause = _QUEUE_INTERVAL if status.job else _INTERVAL
    with console.status("") as shown:
        while status.state.name == "running":
            shown.update(f"step {status.step:,}: it is leaving")
            time.sleep(pause)
            status = _status(folder)
        end = time.monotonic() + _SECONDS_TO_RECORD
        while status.state.name not in _LEFT and time.monotonic() < end:
            time.sleep(_INTERVAL)
            status = _status(folder)
    saved = "no checkpoint was saved" if status.checkpoint is None else f"step {status.checkpoint:,} is saved"
    if status.state.name == "done":
        _print(console, f"it was done before: {saved}")
        return DONE
    if status.state.name in _LEFT:
        _print(console, f"stopped: {saved}; launcher run or launcher submit goes on with it")
        return DONE
    _print(console, f"it has left otherwise, {status.state.name}: {saved}")
    return FAILED


def _status(folder: RunDir) -> RunStatus:
    return run_status.read_status(folder, JobSchedulers())


def _print(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
