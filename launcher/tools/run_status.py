"""The status of a run: one reduction over its events, which come from its files, its job log and Slurm."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from launcher.config import strict_json
from launcher.config.atomic_files import is_dir
from launcher.config.errors import UserError
from launcher.config.strict_json import shown
from launcher.distributed import hostlist
from launcher.plan import plan
from launcher.schedulers import slurm_queue
from launcher.storage import job_log, lease_holder
from launcher.storage.run_dir import RunDir
from launcher.tools import run_events, run_state
from launcher.tools.run_events import (
    CheckpointSaved,
    Event,
    FileDamaged,
    FilesWritten,
    JobLogged,
    JobQueued,
    Planned,
    QueueUnreachable,
    SlurmQueue,
    StepTrained,
    WriterAlive,
)
from launcher.tools.run_state import State


@dataclass(frozen=True)
class RunStatus:
    """One run. `step`: the step that a running run has reached, or that another one resumes from; `steps`: optimiser
    steps in all. `metric`, `value`: the watched metric at the newest checkpoint. `id`: Slurm's newest id of the job.
    `limit`: end of a running job's time limit, in seconds since the epoch. `error`: the first line of the error of the
    last start that failed or lost a node. `log`: the job's log file. `damaged`: problems with the run's files; the
    other fields hold what is known without them."""

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


def find_run(run: str) -> RunDir:
    """A run by its folder, or by its name below runs/. Raises UserError where there is none."""
    folder = RunDir(Path(run))
    if not folder.path.is_dir() and RunDir(plan.RUNS / run).path.is_dir():
        folder = RunDir(plan.RUNS / run)
    if not _is_run(folder):
        raise UserError(f"{run}: no run is there (a run folder is named, such as runs/quickstart-pretrain)")
    return folder


def list_runs() -> list[RunDir]:
    """The run folders below runs/, sorted by name. Raises UserError where that cannot be read."""
    if not is_dir(plan.RUNS):
        return []
    try:
        paths = sorted(plan.RUNS.iterdir())
    except OSError as error:
        raise UserError(f"{plan.RUNS}: cannot be read: {error.strerror}") from None
    return [folder for folder in map(RunDir, paths) if _is_run(folder)]


def _is_run(folder: RunDir) -> bool:
    """Whether a run was planned or submitted here, or cannot be ruled out since the folder is unreadable."""
    return strict_json.exists(folder.plan) or strict_json.exists(job_log.file(folder))


def newest_scheduled_job(folder: RunDir) -> job_log.Job | None:
    """The newest job that a scheduler knows. Raises DamagedFile."""
    return next((job for job in reversed(job_log.story(job_log.read(folder))) if job.ids), None)


def read_status(folder: RunDir, queue: SlurmQueue) -> RunStatus:
    """The status of one run."""
    return read_statuses([folder], queue)[0]


def read_statuses(folders: Sequence[RunDir], queue: SlurmQueue) -> list[RunStatus]:
    """The status of each run. A damaged file is part of the status, not an error."""
    writers = lease_holder.holders([folder.path for folder in folders], ".writer")
    return [reduce_events(folder, run_events.collect(folder, queue, writers.get(folder.path))) for folder in folders]


@dataclass
class _Reduced:
    """The last word of the events on each subject."""

    steps: int | None = None
    checkpoint: CheckpointSaved | None = None
    trained: list[StepTrained] = field(default_factory=list)
    files: FilesWritten | None = None
    writer: WriterAlive | None = None
    logged: JobLogged | None = None
    queued: slurm_queue.Job | None = None
    reachable: bool = True
    damaged: list[str] = field(default_factory=list)

    def add(self, event: Event) -> None:
        match event:
            case Planned():
                self.steps = event.steps
            case CheckpointSaved():
                self.checkpoint = event
            case StepTrained():
                self.trained.append(event)
            case FilesWritten():
                self.files = event
            case WriterAlive():
                self.writer = event
            case JobLogged():
                self.logged = event
            case JobQueued():
                self.queued = event.job
            case QueueUnreachable():
                self.reachable = False
            case FileDamaged():
                self.damaged.append(event.problem)

    @property
    def job(self) -> job_log.Job | None:
        return self.logged.job if self.logged else None

    @property
    def saved_step(self) -> int:
        return self.checkpoint.step if self.checkpoint else 0

    def state(self) -> State:
        state = run_state.derive(
            self.job, self.queued, asked=self.reachable, alive=self.writer is not None,
            finished=self.checkpoint is not None and self.checkpoint.finished,
        )  # fmt: skip
        if state.name == "stopped" and self.job is None and not (self.files and self.files.trained):
            state = State("ready")
        if state.since is None and self.files is not None:
            return State(state.name, state.reason, self.files.time)
        return state

    def last_trained(self, running: bool) -> StepTrained:
        """The last record. Steps after the newest checkpoint are lost when the run does not run."""
        kept = [record for record in self.trained if running or record.step <= self.saved_step]
        return kept[-1] if kept else StepTrained(0, None)

    def nodes(self) -> tuple[str, ...]:
        """The nodes of the running job, else those of the last start."""
        if self.queued is not None and self.queued.state in slurm_queue.RUNNING and self.queued.nodes:
            with suppress(ValueError):
                return tuple(hostlist.expand(self.queued.nodes))
        if self.job is not None and self.job.starts:
            return self.job.starts[-1].nodes
        return (self.writer.host,) if self.writer is not None else ()


def reduce_events(folder: RunDir, events: Iterable[Event]) -> RunStatus:
    """The status that follows from the events of a run; a pure function. `folder`: for its name only."""
    known = _Reduced()
    for event in events:
        known.add(event)
    state, job, logged, queued, saved = known.state(), known.job, known.logged, known.queued, known.checkpoint
    last = known.last_trained(state.name == "running")
    return RunStatus(
        name=shown(folder.path.name, 255),
        folder=shown(str(folder.path), 4096),
        state=state,
        step=max(last.step, known.saved_step),
        steps=known.steps,
        metric=saved.metric if saved else "",
        value=saved.value if saved else None,
        loss=last.loss,
        checkpoint=saved.step if saved else None,
        job=job.name if job and job.scheduled else "",
        id=job.ids[-1] if job and job.ids else "",
        cluster=job.cluster if job else "",
        nodes=known.nodes(),
        requeues=job.requeues if job else 0,
        starts=job.starts if job else (),
        limit=queued.end if queued and queued.state in slurm_queue.RUNNING else None,
        error=logged.error if logged and state.name != "done" else "",
        log=logged.log if logged else "",
        damaged=tuple(known.damaged),
    )
