"""This machine: its ranks are started at once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from launcher.config.types import SchedulerConfig
from launcher.schedulers import ForegroundScheduler, JobRequest, RenderedJob, SubmittedJob

if TYPE_CHECKING:
    from launcher.launch import Launch


class Config(SchedulerConfig):
    """This machine. There are no options."""

    kind: Literal["local"] = "local"

    on_this_machine: ClassVar[bool] = True

    def check_nodes(self, minimum: int, maximum: int) -> str | None:
        return None if maximum == 1 else "a local cluster is one node (kind: slurm or ssh have more)"


@dataclass(frozen=True, kw_only=True)
class LocalJob(RenderedJob):
    """The ranks of this machine."""

    launch: "Launch"


class Scheduler(ForegroundScheduler[LocalJob]):
    def render(self, request: JobRequest) -> LocalJob:
        from launcher.launch import launch_spec

        return LocalJob(launch=launch_spec.train(request.plan, request.cluster, request.via))

    def submit(self, job: LocalJob) -> SubmittedJob:
        from launcher.launch import execute

        return SubmittedJob(outcome=execute.execute(job.launch))
