"""The status of a run, derived from its events: from its files, its job log and its scheduler."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from launcher.config import paths, strict_json
from launcher.config.atomic_files import is_dir
from launcher.config.errors import UserError
from launcher.config.strict_json import shown
from launcher.distributed import hostlist
from launcher.storage import job_log, lease_holder
from launcher.storage.run_dir import RunDir
from launcher.tools.status import run_events, run_state
from launcher.tools.status.run_events import Event, JobSchedulers
from launcher.tools.status.run_state import State

E = TypeVar("E", bound=Event)
_NEEDS_NO_COMMAND = ("running", "pending", "requeued", "done")
_PACE_STEPS = 100
"""Number of recent steps from which the remaining time is estimated."""


@dataclass(frozen=True)
class RunStatus:
    """Status of one run.

    `step`: the step that a running run has reached, or from which another one resumes; `steps`: total number of
    optimiser steps. `metric`, `value`: the watched metric at the newest checkpoint. `job`: name of the job; empty for
    starts by hand. `id`: the job's newest id. `limit`: end of a running job's time limit, in seconds since the epoch.
    `error`: the first line of the error of the last start that failed or lost a node. `log`: the job's log file.
    `restarts`, `hangs`: of the ranks, in the last start. `left`: expected seconds to the end of a running run.
    `goodput`: of a running run, as of its last step. `memory_copy`: step of a whole copy in the memory of this machine
    that is newer than the checkpoint. `command`: starts the run again; empty: it is done, or a scheduler does.
    `damaged`: problems with the run's files; the other fields are then what is known without these files.
    """

    name: str
    folder: str
    state: State
    step: int
    steps: int | None
    metric: str
    value: float | None
    loss: float | None
    checkpoint: int | None
    job: str
    id: str
    cluster: str
    nodes: tuple[str, ...]
    requeues: int
    starts: tuple[job_log.Start, ...]
    limit: float | None = None
    error: str = ""
    log: str = ""
    damaged: tuple[str, ...] = ()
    restarts: int = 0
    hangs: int = 0
    left: float | None = None
    goodput: float | None = None
    memory_copy: int | None = None
    command: str = ""


def find_run(run: str) -> RunDir:
    """Return a run by its folder, or by its name below runs/. Raises UserError if there is none."""
    folder = RunDir(Path(run))
    if not folder.path.is_dir() and RunDir(paths.RUNS / run).path.is_dir():
        folder = RunDir(paths.RUNS / run)
    if not _is_run(folder):
        raise UserError(f"{run}: no run is there (a run folder is named, such as runs/quickstart-pretrain)")
    return folder


def list_runs() -> list[RunDir]:
    """Return the run folders below runs/, sorted by name. Raises UserError if runs/ cannot be read."""
    if not is_dir(paths.RUNS):
        return []
    try:
        folders = sorted(paths.RUNS.iterdir())
    except OSError as error:
        raise UserError(f"{paths.RUNS}: cannot be read: {error.strerror}") from None
    return [folder for folder in map(RunDir, folders) if _is_run(folder)]


def _is_run(folder: RunDir) -> bool:
    """Return whether a run was planned or submitted in this folder. Also true for an unreadable folder, which may
    contain one."""
    return strict_json.exists(folder.plan) or strict_json.exists(folder.job_log)


def newest_scheduled_job(folder: RunDir) -> job_log.Job | None:
    """Return the newest job that a scheduler knows; None: there is none. Raises DamagedFile."""
    return next((job for job in reversed(job_log.story(job_log.read(folder))) if job.ids and job.scheduler), None)


def read_status(folder: RunDir, schedulers: JobSchedulers) -> RunStatus:
    """Return the status of one run."""
    return read_statuses([folder], schedulers)[0]


def read_statuses(folders: Sequence[RunDir], schedulers: JobSchedulers) -> list[RunStatus]:
    """Return the status of each run. A damaged file becomes part of the status, and raises no error."""
    there = [folder.path for folder in folders]
    writers = lease_holder.holders(there, ".writer")
    starters = lease_holder.holders(there, ".starter") | lease_holder.holders(there, ".start")
    return [
        reduce_events(
            folder, run_events.collect(folder, schedulers, writers.get(folder.path), starters.get(folder.path))
        )
        for folder in folders
    ]


def reduce_events(folder: RunDir, events: Sequence[Event]) -> RunStatus:
    """Return the status that follows from the events of a run. A pure function. `folder`: only its name is used."""
    saved, logged = _last(events, run_events.CheckpointSaved), _last(events, run_events.JobLogged)
    known, planned = _last(events, run_events.JobReported), _last(events, run_events.Planned)
    limit = known.job.end if known and known.job.phase == "running" else None
    state, job = _state(events), logged.job if logged else job_log.Job("")
    copied, ranks = _last(events, run_events.CopiedToMemory), _last(events, run_events.RanksRestarted)
    newest = saved.step if saved else 0
    copy = copied.step if copied and copied.step > newest and state.name != "done" else None
    newest = copy or newest
    running = state.name == "running"
    trained = [one for one in events if isinstance(one, run_events.StepTrained)]
    if not running:  # steps after the checkpoint are lost
        trained = [one for one in trained if one.step <= newest]
    return RunStatus(
        name=shown(folder.path.name, 255),
        folder=shown(str(folder.path), 4096),
        state=state,
        step=max(trained[-1].step, newest) if trained else newest,
        steps=planned.steps if planned else None,
        metric=saved.metric if saved else "",
        value=saved.value if saved else None,
        loss=trained[-1].loss if trained else None,
        checkpoint=saved.step if saved else None,
        job=job.name if job.scheduled else "",
        id=job.ids[-1] if job.ids else "",
        cluster=job.cluster,
        nodes=_nodes(events),
        requeues=job.requeues,
        starts=job.starts,
        limit=limit,
        error=logged.error if logged and state.name != "done" else "",
        log=logged.log if logged else "",
        damaged=tuple(one.problem for one in events if isinstance(one, run_events.FileDamaged)),
        restarts=ranks.restarts if ranks else 0,
        hangs=ranks.hangs if ranks else 0,
        left=_left(trained, planned) if running else None,
        goodput=trained[-1].goodput if running and trained else None,
        memory_copy=copy,
        command=planned.command if planned and state.name not in _NEEDS_NO_COMMAND else "",
    )


def _left(trained: Sequence[run_events.StepTrained], planned: run_events.Planned | None) -> float | None:
    """Return the expected seconds to the end of the run, by the pace of its last steps; None: not known."""
    timed = list[tuple[int, float]]()
    for one in reversed(trained[-_PACE_STEPS:]):
        if one.seconds is None or (timed and one.step >= timed[-1][0]):  # a resume lies between them
            break
        timed.append((one.step, one.seconds))
    if planned is None or planned.steps is None or len(timed) < 2:
        return None
    (last, end), (first, begin) = timed[0], timed[-1]
    return (planned.steps - last) * (end - begin) / (last - first)


def _last(events: Sequence[Event], kind: type[E]) -> E | None:
    return next((event for event in reversed(events) if isinstance(event, kind)), None)


def _state(events: Sequence[Event]) -> State:
    logged, known = _last(events, run_events.JobLogged), _last(events, run_events.JobReported)
    saved, files = _last(events, run_events.CheckpointSaved), _last(events, run_events.LastFileWrite)
    state = run_state.derive(
        logged.job if logged else None,
        known.job if known else None,
        reachable=_last(events, run_events.SchedulerUnreachable) is None,
        alive=_last(events, run_events.WriterAlive) is not None,
        finished=saved is not None and saved.finished,
        starting=_last(events, run_events.StarterAlive) is not None,
    )
    if state.name == "stopped" and logged is None and not (files and files.trained):
        state = State("ready")
    if state.name == "running" and _last(events, run_events.StopRequested) is not None:
        state = State("running", "stopping", state.since)
    return State(state.name, state.reason, files.time) if state.since is None and files else state


def _nodes(events: Sequence[Event]) -> tuple[str, ...]:
    """Return the nodes of a running job, else those of the last start, else the host of the writer."""
    known, logged = _last(events, run_events.JobReported), _last(events, run_events.JobLogged)
    if known and known.job.phase == "running" and known.job.nodes:
        with suppress(ValueError):
            return tuple(hostlist.expand(known.job.nodes))
    if logged and logged.job.starts:
        return logged.job.starts[-1].nodes
    writer = _last(events, run_events.WriterAlive)
    return (writer.host,) if writer else ()
