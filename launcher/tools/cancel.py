"""End a run's job for good: waiting or running, and whatever was chained to it meanwhile."""

import time
from collections.abc import Collection

from rich.console import Console

from launcher.config.errors import UserError
from launcher.schedulers import slurm_queue
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir
from launcher.tools import run_events, run_status

PATIENCE = 60.0
"""Seconds that a job is given to save and leave. Slurm ends it by itself when its own patience, KillWait, is over."""
_EVERY = 2.0
"""Seconds between two looks at the queue, which is not only ours."""


def cancel(run: str, console: Console) -> None:
    """Cancel the job, and wait until it has left: what comes back meanwhile is cancelled too. Raises UserError where no
    job of the run lives, or Slurm refuses."""
    folder = run_status.find_run(run)
    job = run_status.newest_scheduled_job(folder)
    if job is None:
        raise UserError(f"{folder.path}: it is no job of Slurm's (stop it where it was started, with Ctrl-C)")
    living = _living(folder)
    if not living:
        at = run_status.read_status(folder, run_events.SlurmQueue())
        if at.id != job.ids[-1] and at.state.name == "running":
            raise UserError(f"{folder.path}: it runs now where it was started (stop it there, with Ctrl-C)")
        raise UserError(f"{folder.path}: job {job.ids[-1]} is over already: {at.state.name}")
    slurm_queue.cancel(list(living))
    job_log.append(folder, {"event": "cancelled", "job": job.name})
    for id, known in living.items():
        was = "was waiting" if known.state in slurm_queue.WAITING else f"was running on {known.nodes}"
        console.print(f"job {id} is cancelled: it {was}", highlight=False, markup=False, soft_wrap=True)
    if any(known.state not in slurm_queue.WAITING for known in living.values()):
        _see_it_leave(folder, set(living), console)
    whole = folder.whole()
    kept = f"its newest checkpoint is of step {whole[-1].step}" if whole else "no checkpoint had been made"
    console.print(
        f"{kept}; launcher submit or launcher run goes on with it", highlight=False, markup=False, soft_wrap=True
    )


def _living(folder: RunDir, among: Collection[str] | None = None) -> dict[str, slurm_queue.Job]:
    """The run's jobs that live, by the ids that they are cancelled by: `among` these and the newest, or all."""
    job = run_status.newest_scheduled_job(folder)
    if job is None:
        return {}
    asked = [id for id in job.ids if among is None or id in among or id == job.ids[-1]]
    known = slurm_queue.jobs(asked)
    return {id: one for id, one in known.items() if one.living and run_events.belongs_to(one, folder)}


def _see_it_leave(folder: RunDir, watched: set[str], console: Console) -> None:
    """Wait until none of the jobs `watched` lives, nor the newest: one that was about to be requeued, or to chain
    another to it, may just have done so."""
    what = "it saves a checkpoint and leaves"
    if not console.is_terminal:  # where a spinner is not shown
        console.print(
            f"{what}: this waits for it, {PATIENCE:.0f} s at the most", highlight=False, markup=False, soft_wrap=True
        )
    end = time.monotonic() + PATIENCE
    with console.status(what):
        while (living := _living(folder, watched)) and time.monotonic() < end:
            again = [id for id, known in living.items() if known.state not in slurm_queue.LEAVING]
            if again:
                slurm_queue.cancel(again)
            watched |= set(living)
            time.sleep(_EVERY)
