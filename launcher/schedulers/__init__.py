"""Where jobs run.

Each kind is one module of this package, or a user's own module, named by its dotted path (`kind: mypkg.sky` in a
cluster profile). It defines a `Config` (a subclass of `launcher.config.types.SchedulerConfig`) and a class `Scheduler`
that extends the class below. The `Config` is the section of the profile whose key is the last part of the kind. There
is no other registration. Import heavy libraries inside functions, because each rank reads its profile's Config.

A job trains the run of an existing folder RUN. On each node it starts `python -m launcher.launch.node RUN --node I
--hosts A,B` with the variables of `JobRequest.variables`. One of them is LAUNCHER_JOB, the name under which the nodes
log the job's events. It must be the same on all nodes: `RenderedJob.name`, or, if this is empty, the id that `submit`
returns. Otherwise `launcher status` and `launcher cancel` do not find the job. `launcher status` looks for the output
of a queued job in RUN/logs/job-ID.log.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

from launcher.config import env_vars
from launcher.config.errors import UserError
from launcher.config.types import SchedulerConfig

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster
    from launcher.health.finding import Finding
    from launcher.launch.execute import Outcome
    from launcher.launch.launch_spec import Via
    from launcher.plan.plan import Plan

Phase = Literal["waiting", "running", "leaving", "ended"]
EndReason = Literal["", "cancelled", "failed", "node lost", "preempted", "time over"]


@dataclass(frozen=True)
class JobRequest:
    """Request to train a run."""

    plan: "Plan"
    """Plan of the run. For an array: the plan of its first run, with the name and the folder of the sweep."""
    cluster: "Cluster"
    """Profile of the cluster."""
    working_directory: Path
    """Current folder of the job. The run folder is relative to it."""
    cache: Path
    """Folder of the prepared data."""
    number: int = 1
    """Number of this submission of the run."""
    points: Sequence[int] | None = None
    """Indices of an array's runs. Their folders are the plan's folder with -0, -1, ... added. None: a single run."""
    via: "Via" = "elastic"
    """Program that starts the ranks of this machine."""
    token: str = field(default_factory=lambda: f"{int(time.time())}-{os.getpid()}")
    """Unique name of this submission, for jobs that get no name from their scheduler, or get it too late."""

    @property
    def run_folder(self) -> Path:
        """Absolute path of the run folder."""
        return self.working_directory / self.plan.folder

    def variables(self, job: str = "") -> dict[str, str]:
        """Return the environment variables of the job's nodes.

        `job`: name of a job that its scheduler starts only once. Without it, the job itself sets LAUNCHER_JOB, and sets
        LAUNCHER_START to a number that increases with each start. Secrets are not among them (see `secrets`).
        """
        from launcher.launch import launch_spec

        local = self.cluster.scratch.local
        return {
            env_vars.CACHE: str(self.cache),
            **({} if local is None else {"TMPDIR": local}),
            **launch_spec.environment(self.cluster),
            **({env_vars.JOB: job, env_vars.START: "0"} if job else {}),
        }

    def secrets(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that the nodes get from this environment (`env_from` of the profile). They belong
        neither in a file nor on a command line, which every user of a machine can read."""
        return self.cluster.passed_on(environment)


@dataclass(frozen=True)
class RenderedJob:
    """A job that can be submitted.

    `text`: the text that is queued and that a dry run prints; empty for a job that is not queued. `file`: path of the
    text after submission. `name`: LAUNCHER_JOB of the nodes; empty: nodes set it to the id that `submit` returns.
    """

    text: str = ""
    file: Path | None = None
    name: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class SubmittedJob:
    """A job after `submit`. `id`: the scheduler's id of a queued job, or of a whole array. `outcome`: the outcome of a
    job that was not queued, and so has ended."""

    id: str = ""
    outcome: "Outcome | None" = None


@dataclass(frozen=True)
class JobState:
    """A job as its scheduler reports it. Times are in seconds since the epoch."""

    id: str
    phase: Phase
    state: str = ""
    """State, in the scheduler's words."""
    reason: str = ""
    """Reason why the job waits or has ended."""
    ended: EndReason = ""
    """Reason why the scheduler ended the job; empty if the job itself ended."""
    nodes: str = ""
    """Nodes, separated by commas or in Slurm's notation."""
    restarts: int = 0
    """Number of times that the scheduler has started the job again."""
    code: int | None = None
    """Exit code."""
    submitted: float | None = None
    start: float | None = None
    end: float | None = None
    """End of the job, or of its time limit while it runs."""

    @property
    def alive(self) -> bool:
        """Whether the job waits or runs."""
        return self.phase != "ended"


J = TypeVar("J", bound=RenderedJob)


class JobRefused(UserError):
    """The scheduler refused a job."""


class Scheduler(ABC, Generic[J]):
    """Interface to submit, query and cancel jobs. Base class of the schedulers; each is created from the Config of its
    kind."""

    queued: ClassVar[bool] = True
    """Whether `launcher submit` adds jobs to a queue. Otherwise `launcher run` starts a job and waits for it
    (ForegroundScheduler)."""
    supports_arrays: ClassVar[bool] = False
    """Whether a job may have several runs (`JobRequest.points`)."""

    def __init__(self, config: SchedulerConfig):
        self.config = config

    @abstractmethod
    def render(self, request: JobRequest) -> J:
        """Build the job without side effects. Raises UserError for a request that the scheduler does not support."""

    @abstractmethod
    def submit(self, job: J) -> SubmittedJob:
        """Start a job of `render`, or add it to the queue. A job that is not queued has ended when this returns. Raises
        UserError if the job is refused; then nothing remains of it."""

    @abstractmethod
    def state(self, id: str, run: Path) -> JobState | None:
        """Return the state of a run's job; None: the scheduler does not know it.

        `run`: the run folder, which shows whether the id now belongs to another job. Raises UserError if the scheduler
        does not answer.
        """

    @abstractmethod
    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs, waiting or running, without a restart. Raises UserError if the scheduler refuses."""

    def validate(self, job: J) -> str:
        """Ask the scheduler about a job before anything is prepared or written. Returns its answer as a sentence for
        the user; empty: no answer. Raises JobRefused."""
        return ""

    def complete(self, cluster: "Cluster") -> "Cluster":
        """Return the profile with what only the scheduler knows, such as the cores of a node. It asks the scheduler
        once, and leaves out what it does not answer."""
        return cluster

    def findings(self) -> "list[Finding]":
        """Return what `launcher doctor` shows about this scheduler's commands on this machine."""
        return []

    def node_commands(self, cluster: "Cluster", arguments: Sequence[str]) -> dict[str, list[str]]:
        """Return the commands that run `python ARGUMENTS` once on each node of a profile, by host; a command that
        starts all of them has the key "". Empty: there is no such command, or this machine is the only node. Raises
        UserError.
        """
        return {}

    def task_id(self, id: str, point: int | Literal["*"]) -> str:
        """Return the id of one run of an array; for `*` a pattern of all. `id`: of the array."""
        raise NotImplementedError(f"{type(self).__name__} supports no arrays")

    def notes(self) -> list[str]:
        """Return sentences about the scheduler's limits, to be shown with the plan."""
        return []


class ForegroundScheduler(Scheduler[J]):
    """A scheduler without a queue: `submit` waits for the job, and a signal to this process ends it."""

    queued = False

    def state(self, id: str, run: Path) -> JobState | None:
        return None

    def cancel(self, ids: Sequence[str]) -> None:
        raise UserError(f"{', '.join(ids)}: no job of a queue (stop it where it was started, with Ctrl-C)")
