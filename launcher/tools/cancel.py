"""`launcher cancel`: end a run's job, waiting or running, and jobs that are chained to it in the meantime."""

import time
from collections.abc import Collection

from rich.console import Console

from launcher.config.errors import UserError
from launcher.schedulers import JobState
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir
from launcher.tools import job_scheduler
from launcher.tools.status import run_events, run_status

_MAX_WAIT = 60.0
"""Maximum seconds to wait until a job has saved a checkpoint and left. Its scheduler may end it earlier."""
_INTERVAL = 2.0
"""Seconds between two queries of the queue. They are spaced, because other users share the queue."""


def cancel(run: str, console: Console) -> None:
    """Cancel the job and wait until it has left. If its scheduler starts it again in the meantime, it is cancelled
    again. Raises UserError if no job of the run is alive, or if the scheduler refuses."""
    folder = run_status.find_run(run)
    job = run_status.newest_scheduled_job(folder)
    if job is None:
        raise UserError(f"{folder.path}: it is no job of a queue (stop it where it was started, with Ctrl-C)")
    alive = _alive(folder, job)
    if not alive:
        raise UserError(_why_not_alive(folder, job))
    job_scheduler.of(folder, job).cancel(list(alive))
    job_log.append(folder, {"event": "cancelled", "job": job.name})
    for id, state in alive.items():
        before = "was waiting" if state.phase == "waiting" else f"was running on {state.nodes}"
        _print(console, f"job {id} is cancelled: it {before}")
    if any(state.phase != "waiting" for state in alive.values()):
        _wait(folder, set(alive), console)
    whole = folder.whole()
    kept = f"its newest checkpoint is of step {whole[-1].step}" if whole else "no checkpoint had been made"
    _print(console, f"{kept}; launcher submit or launcher run goes on with it")


def _print(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _why_not_alive(folder: RunDir, job: job_log.Job) -> str:
    status = run_status.read_status(folder, run_events.JobSchedulers())
    if status.id != job.ids[-1] and status.state.name == "running":
        return f"{folder.path}: it runs now where it was started (stop it there, with Ctrl-C)"
    return f"{folder.path}: job {job.ids[-1]} is over already: {status.state.name}"


def _alive(folder: RunDir, job: job_log.Job, among: Collection[str] | None = None) -> dict[str, JobState]:
    """Return the states of the job's ids that are pending or running, by id. `among`: check only these ids and the
    newest one (default: all)."""
    ids = [id for id in job.ids if among is None or id in among or id == job.ids[-1]]
    scheduler = job_scheduler.of(folder, job)
    states = {id: scheduler.state(id, folder.path) for id in ids}
    return {id: state for id, state in states.items() if state is not None and state.alive}


def _wait(folder: RunDir, watched: set[str], console: Console) -> None:
    """Wait until neither a `watched` job nor the newest one is alive, and cancel jobs that begin again.

    A job that was about to be requeued, or to chain another job to it, may just have done so.
    """
    what = "it saves a checkpoint and leaves"
    if not console.is_terminal:  # there is no spinner then
        _print(console, f"{what}: this waits for it, {_MAX_WAIT:.0f} s at the most")
    end = time.monotonic() + _MAX_WAIT
    with console.status(what):
        while (job := run_status.newest_scheduled_job(folder)) and time.monotonic() < end:
            alive = _alive(folder, job, watched)
            if not alive:
                break
            again = [id for id, state in alive.items() if state.phase != "leaving"]
            if again:
                job_scheduler.of(folder, job).cancel(again)
            watched |= set(alive)
            time.sleep(_INTERVAL)
