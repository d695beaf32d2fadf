"""Events of one run, from three sources: the files of its ranks, the log of its jobs, and its job's scheduler.

Sources only read. If a file is damaged, its source ends with a `FileDamaged` event.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from launcher.config import strict_json
from launcher.config.atomic_files import is_file
from launcher.config.errors import UserError
from launcher.config.paths import ERROR
from launcher.config.strict_json import DamagedFile, shown
from launcher.schedulers import JobState
from launcher.storage import job_log, lease_file, memory_folder, stop_file
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir, over
from launcher.storage.run_files import PlanSummary
from launcher.tools import job_scheduler

_TAIL = 1 << 16
"""Number of bytes to read at the end of the metrics."""
_ERROR_LENGTH = 400
"""Maximum characters of an error."""
_PLAN_HINT = "launcher run writes it again"


class Planned(NamedTuple):
    """The plan of the run. `steps`: number of optimiser steps of the whole run; None: the plan does not contain it.
    `command`: starts the run again; empty: the plan does not contain it."""

    steps: int | None
    command: str = ""


class CheckpointSaved(NamedTuple):
    """The newest checkpoint. `finished`: nothing is left to train after it. `metric`, `value`: the watched metric of
    the evaluation at this step; empty and None: there is none."""

    step: int
    finished: bool = False
    metric: str = ""
    value: float | None = None


class StepTrained(NamedTuple):
    """One training record of the metrics. `seconds`: of training, over the whole run. `goodput`: of the run so far."""

    step: int
    loss: float | None
    seconds: float | None = None
    goodput: float | None = None


class CopiedToMemory(NamedTuple):
    """The newest whole copy of the run's state in the memory of this machine."""

    step: int


class RanksRestarted(NamedTuple):
    """Restarts of the ranks, and hangs, in the last start of the newest job."""

    restarts: int
    hangs: int


class LastFileWrite(NamedTuple):
    """The last write to the metrics or the plan. `time`: in seconds since the epoch. `trained`: whether metrics
    exist."""

    time: float | None
    trained: bool


class WriterAlive(NamedTuple):
    """A rank on `host` holds the lease of the run folder."""

    host: str


class StarterAlive(NamedTuple):
    """A command that starts, or has started, the ranks of the run lives on `host`."""

    host: str


class JobLogged(NamedTuple):
    """The newest job in the log. `error`: the first line of its last failure; `log`: its log file, if there is one."""

    job: job_log.Job
    error: str = ""
    log: str = ""


class JobReported(NamedTuple):
    """The newest job as its scheduler reports it."""

    job: JobState


class SchedulerUnreachable(NamedTuple):
    """The scheduler of the newest job did not answer, or is not installed."""


class StopRequested(NamedTuple):
    """The run folder has the file STOP."""


class FileDamaged(NamedTuple):
    """A damaged file. `problem`: the file, the line and the damage."""

    problem: str


Event = (
    Planned | CheckpointSaved | StepTrained | LastFileWrite | WriterAlive | StarterAlive | JobLogged | JobReported
    | CopiedToMemory | RanksRestarted | SchedulerUnreachable | StopRequested | FileDamaged
)  # fmt: skip


class JobSchedulers:
    """The schedulers of jobs.

    `trouble`: by kind, why a scheduler did not answer; such a scheduler is not asked again. `unusable`: reasons why the
    scheduler of a single run cannot be asked.
    """

    def __init__(self) -> None:
        self.trouble: dict[str, str] = {}
        self.unusable: list[str] = []

    def events(self, job: job_log.Job | None, folder: RunDir) -> Iterator[Event]:
        """Yield what the scheduler reports about a run's job. It is not asked about a job without an id, or a job that
        is done."""
        if job is None or not job.ids or not job.scheduler or (job.starts and job.starts[-1].why == "done"):
            return
        if job.scheduler in self.trouble:
            yield SchedulerUnreachable()
            return
        try:
            scheduler = job_scheduler.of(folder, job)
        except UserError as error:
            self.unusable.append(str(error))
            yield SchedulerUnreachable()
            return
        try:
            state = scheduler.state(job.ids[-1], folder.path)
        except UserError as error:
            self.trouble[job.scheduler] = str(error)
            yield SchedulerUnreachable()
            return
        if state is not None:
            yield JobReported(state)


def collect(
    folder: RunDir,
    schedulers: JobSchedulers,
    writer: lease_file.Holder | None,
    starter: lease_file.Holder | None = None,
) -> list[Event]:
    """Return the events of all sources. `writer`, `starter`: the living holders of the rights to write into the run
    folder and to start the run."""
    plan, log = list(_until_damaged(_plan_events(folder))), list(_until_damaged(_job_log_events(folder, writer)))
    steps = next((event.steps for event in plan if isinstance(event, Planned)), None)
    job = next((event.job for event in log if isinstance(event, JobLogged)), None)
    return [
        *plan,
        *log,
        *_checkpoint_events(folder, steps),
        *_until_damaged(_metrics_events(folder)),
        *([WriterAlive(writer.host)] if writer is not None else []),
        *([StarterAlive(starter.host)] if starter is not None else []),
        *_memory_events(folder),
        *([StopRequested()] if stop_file.exists(folder) else []),
        *schedulers.events(job, folder),
    ]


def _until_damaged(events: Iterator[Event]) -> Iterator[Event]:
    """Yield the events before the first damaged file, then an event for the damage."""
    try:
        yield from events
    except DamagedFile as error:
        yield from _damage(error)


def _damage(error: DamagedFile) -> list[FileDamaged]:
    return [FileDamaged(shown(str(problem), 4096)) for problem in error.problems]


def _plan_events(folder: RunDir) -> Iterator[Event]:
    if strict_json.exists(folder.plan):
        plan = strict_json.read(folder.plan, PlanSummary, _PLAN_HINT)
        yield Planned(plan.steps, plan.command)


def _checkpoint_events(folder: RunDir, steps: int | None) -> Iterator[Event]:
    whole = folder.whole()
    if not whole:
        return
    newest = whole[-1]
    try:
        metric, value = _watched(newest)
        yield CheckpointSaved(newest.step, over(newest, steps) is not None, metric, value)
    except DamagedFile as error:
        yield CheckpointSaved(newest.step)
        yield from _damage(error)


def _watched(saved: SavedCheckpoint) -> tuple[str, float | None]:
    with suppress(KeyError):
        name = saved.state["watched"]["metric"]
        return name.removeprefix("eval/"), float(saved.state["evaluation"][name])
    return "", None


def _metrics_events(folder: RunDir) -> Iterator[Event]:
    yield LastFileWrite(_last_write(folder), strict_json.exists(folder.metrics))
    for record in folder.lines(last=_TAIL):
        if "loss" in record:
            yield StepTrained(record["step"], record["loss"], record.get("seconds"), record.get("goodput"))


def _memory_events(folder: RunDir) -> Iterator[Event]:
    with suppress(OSError):
        step = memory_folder.newest_step(folder)
        if step is not None:
            yield CopiedToMemory(step)


def _last_write(folder: RunDir) -> float | None:
    for file in (folder.metrics, folder.plan):
        with suppress(OSError):
            return file.stat().st_mtime
    return None


def _job_log_events(folder: RunDir, writer: lease_file.Holder | None) -> Iterator[Event]:
    """Yield the newest job, unless the run has been started outside of it since then."""
    job = newest_job(folder)
    if job is not None and (writer is None or writer.job == (job.name if job.scheduled else "")):
        yield JobLogged(job, _last_error(folder, job), _log_file(folder, job))
        own = [event for event in job_log.read(folder) if event["job"] == job.name]
        begun = max((i for i, event in enumerate(own) if event["event"] == "started"), default=0)
        kinds = Counter(event["event"] for event in own[begun:])
        yield RanksRestarted(kinds["restarted"], kinds["hang"])


def newest_job(folder: RunDir) -> job_log.Job | None:
    """Return the job of the last event in the run's log; None: the log is empty. Raises DamagedFile."""
    events = job_log.read(folder)
    return next((job for job in job_log.story(events) if job.name == events[-1]["job"]), None) if events else None


def _last_error(folder: RunDir, job: job_log.Job) -> str:
    """Return the first line of the error of the last start that failed or lost a node, after the number of the start;
    empty: no start failed."""
    for number, start in reversed(list(enumerate(job.starts))):
        if start.why not in ("failed", "node"):
            continue
        error = _node_error(folder.start_folder(job.name, start.number) / ERROR) if job.scheduled else start.error
        numbered = job.scheduled or len(job.starts) > 1
        return f"start {number}: {error}" if error and numbered else error
    return ""


def _node_error(file: Path) -> str:
    with suppress(DamagedFile):
        for _, line in strict_json.lines(file, ""):
            if text := line.decode(errors="replace").strip():
                return shown(text, _ERROR_LENGTH)
    return ""


def _log_file(folder: RunDir, job: job_log.Job) -> str:
    """Return the log of the newest id that has a log; empty: there is none. For a start by hand, return the log of the
    rank that failed first, or of rank 0."""
    files = [folder.job_output(id) for id in reversed(job.ids)]
    if not job.scheduled:
        files = [folder.logs / f"rank{job.starts[-1].rank or 0 if job.starts else 0}.log"]
    return next((str(file) for file in files if is_file(file)), "")
