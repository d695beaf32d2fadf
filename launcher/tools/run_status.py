"""One run as it is now: what its folder, its job's events and its scheduler report. Nothing is written, and a scheduler
is asked only about a job that is not known to be done."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from launcher.config import strict_json
from launcher.config.atomic_files import is_dir, is_file
from launcher.config.errors import Problem, UserError
from launcher.config.strict_json import DamagedFile, shown
from launcher.distributed import hostlist
from launcher.plan import plan
from launcher.schedulers import JobState
from launcher.storage import job_log, lease, lease_holder
from launcher.storage.run_dir import RunDir, SavedCheckpoint, over
from launcher.storage.run_files import PlanSummary
from launcher.tools import job_scheduler, run_state
from launcher.tools.run_state import State

_TAIL = 1 << 16
"""Bytes at the end of the metrics that are looked through."""
_SENTENCE = 400
"""Characters of an error that are shown."""
_PLAN = "launcher run writes it again"
T = TypeVar("T")


@dataclass(frozen=True)
class Status:
    """One run. `step`: that a run has come to that runs, else of what it goes on from; `steps`: in all. `metric`,
    `value`: what is watched, where the newest checkpoint was made at an evaluation. `id`: its job's, to the scheduler.
    `limit`: when a running job's time is over. `error`: the first line of what the last start that failed, or whose
    nodes were unfit or lost, has told, after its place in the history; `log`: the job's, where there is one. `damaged`:
    what is wrong with the run's files; what is known without them stands here."""

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


class JobStates:
    """The states of jobs as their schedulers report them. `trouble`: why a scheduler did not answer, by kind; it is not
    asked again."""

    def __init__(self) -> None:
        self.trouble: dict[str, str] = {}

    def newest(self, folder: RunDir, job: job_log.Job) -> tuple[JobState | None, bool]:
        """The state of the newest of a job's ids, and whether its scheduler answered."""
        if not job.scheduler:
            return None, True
        if job.scheduler not in self.trouble:
            try:
                return job_scheduler.of(folder, job).state(job.ids[-1], folder.path), True
            except UserError as error:
                self.trouble[job.scheduler] = str(error)
        return None, False


def named(run: str) -> RunDir:
    """The folder of a run, or the run of that name. Raises UserError where there is none."""
    folder = RunDir(Path(run))
    if not folder.path.is_dir() and RunDir(plan.RUNS / run).path.is_dir():
        folder = RunDir(plan.RUNS / run)
    if not _begun(folder):
        raise UserError(f"{run}: no run is there (a run folder is named, such as runs/quickstart-pretrain)")
    return folder


def found() -> list[RunDir]:
    """The run folders here, in the order of their names."""
    if not is_dir(plan.RUNS):
        return []
    try:
        paths = sorted(plan.RUNS.iterdir())
    except OSError as error:
        raise UserError(f"{plan.RUNS}: cannot be read: {error.strerror}") from None
    return [folder for folder in map(RunDir, paths) if _begun(folder)]


def _begun(folder: RunDir) -> bool:
    """Whether a run was planned or submitted here, or its folder hides whether."""
    return strict_json.exists(folder.plan) or strict_json.exists(job_log.file(folder))


def current(folder: RunDir) -> job_log.Job | None:
    """The job that the run's story speaks of last."""
    events = job_log.read(folder)
    return next((job for job in job_log.story(events) if job.name == events[-1]["job"]), None) if events else None


def scheduled(folder: RunDir) -> job_log.Job | None:
    """The newest job that a scheduler knows of."""
    return next((job for job in reversed(job_log.story(job_log.read(folder))) if job.ids), None)


def at(folder: RunDir, states: JobStates) -> Status:
    """One run as it is now."""
    return every([folder], states)[0]


def every(folders: Sequence[RunDir], states: JobStates) -> list[Status]:
    """Runs as they are now, whatever their files hold."""
    writers = lease_holder.holders([folder.path for folder in folders], ".writer")
    return [_at(folder, states, writers.get(folder.path)) for folder in folders]


@dataclass
class _Reading:
    """What was wrong with the files that were read."""

    damaged: list[str | Problem] = field(default_factory=list)

    def of(self, read: Callable[[], T], instead: T) -> T:
        try:
            return read()
        except DamagedFile as error:
            self.damaged += error.problems
            return instead


def _at(folder: RunDir, states: JobStates, holder: lease.Holder | None) -> Status:
    reading, whole = _Reading(), folder.whole()
    steps = reading.of(lambda: _steps(folder), None)
    job = reading.of(lambda: current(folder), None)
    newest = whole[-1] if whole else None
    saved: dict[str, Any] = reading.of(lambda: newest.state if newest else {}, {})
    if holder is not None and job is not None and holder.job != (job.name if job.scheduled else ""):
        job = None  # it was started here since
    known, asked = None, True
    if job is not None and job.ids and not (job.starts and job.starts[-1].why == "done"):
        known, asked = states.newest(folder, job)
    now = run_state.of(job, known, asked=asked, alive=holder is not None, finished=_finished(newest, steps))
    kept, last = newest.step if newest else 0, job.starts[-1] if job and job.starts else None
    told = _last(folder, None if now.name == "running" else kept, reading)
    step = max(told.get("step", 0), kept)
    if now.name == "stopped" and job is None and not strict_json.exists(folder.metrics):
        now = State("ready")
    if now.since is None:
        now = State(now.name, now.reason, _touched(folder))
    metric, value = _watched(saved)
    running = known is not None and known.phase == "running"
    return Status(
        name=shown(folder.path.name, 255), folder=shown(str(folder.path), 4096), state=now, step=step, steps=steps,
        metric=metric, value=value, loss=told.get("loss"), checkpoint=newest.step if newest else None,
        job=job.name if job and job.scheduled else "", id=job.ids[-1] if job and job.ids else "",
        cluster=job.cluster if job else "", nodes=_nodes(known if running else None, last, holder),
        requeues=job.requeues if job else 0,
        starts=job.starts if job else (), limit=known.end if running and known else None,
        error=_error(folder, job) if job and now.name != "done" else "", log=_log(folder, job) if job else "",
        damaged=tuple(shown(str(what), 4096) for what in reading.damaged),
    )  # fmt: skip


def _error(folder: RunDir, job: job_log.Job) -> str:
    for number, start in reversed(list(enumerate(job.starts))):
        if start.why in ("failed", "node") and not job.scheduled:
            return f"start {number}: {start.error}" if len(job.starts) > 1 else start.error
        if start.why in ("failed", "node"):
            file = folder.jobs / f"{job.name}-{start.number}" / "error"
            with suppress(DamagedFile):
                for _, line in strict_json.lines(file, ""):
                    if text := line.decode(errors="replace").strip():
                        return f"start {number}: {shown(text, _SENTENCE)}"
            return ""
    return ""


def _log(folder: RunDir, job: job_log.Job) -> str:
    """The log of the newest of its ids that has one; of a start by hand, that of the rank that failed first, or of rank
    0."""
    if not job.scheduled:
        file = folder.logs / f"rank{job.starts[-1].rank or 0 if job.starts else 0}.log"
        return str(file) if is_file(file) else ""
    files = (folder.logs / f"job-{id}.log" for id in reversed(job.ids))
    return next((str(file) for file in files if is_file(file)), "")


def _steps(folder: RunDir) -> int | None:
    """As planned, if it was: another version of the launcher may have done so. Raises DamagedFile."""
    return strict_json.read(folder.plan, PlanSummary, _PLAN).steps if strict_json.exists(folder.plan) else None


def _finished(newest: SavedCheckpoint | None, steps: int | None) -> bool:
    with suppress(DamagedFile):
        return over(newest, steps) is not None
    return False


def _watched(saved: dict[str, Any]) -> tuple[str, float | None]:
    """The metric that is watched, where the newest checkpoint was made at an evaluation."""
    with suppress(KeyError):
        name = saved["watched"]["metric"]
        return name.removeprefix("eval/"), float(saved["evaluation"][name])
    return "", None


def _last(folder: RunDir, most: int | None, reading: _Reading) -> dict[str, Any]:
    """The last training record of the metrics, with its step and loss, or the last up to the step `most`: what came
    after it is gone."""
    found = dict[str, Any]()

    def look() -> None:
        nonlocal found
        for record in folder.lines(last=_TAIL):
            if "loss" in record and (most is None or record["step"] <= most):
                found = record

    reading.of(look, None)
    return found


def _nodes(known: JobState | None, last: job_log.Start | None, holder: lease.Holder | None) -> tuple[str, ...]:
    """Where it runs, or ran last."""
    if known is not None and known.nodes:
        with suppress(ValueError):
            return tuple(hostlist.expand(known.nodes))
    if last is not None:
        return last.nodes
    return (holder.host,) if holder is not None else ()


def _touched(folder: RunDir) -> float | None:
    """When something was last written that tells how far the run is."""
    times = []
    for file in (folder.metrics, folder.plan):
        with suppress(OSError):
            times.append(file.stat().st_mtime)
    return times[0] if times else None
