"""This machine: its ranks are started at once."""

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from launcher.config import paths
from launcher.config.types import SchedulerConfig
from launcher.schedulers import ForegroundScheduler, JobRequest, RenderedJob, SubmittedJob

if TYPE_CHECKING:
    from launcher.launch import Launch


class Config(SchedulerConfig):
    """This machine has no options of its own."""

    kind: Literal["local"] = "local"

    queued: ClassVar[bool] = False
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

        launch = launch_spec.train(request.plan, request.cluster, request.via)
        return LocalJob(_printed(launch), launch=launch)

    def submit(self, job: LocalJob) -> SubmittedJob:
        from launcher.launch import execute

        return SubmittedJob(outcome=execute.execute(job.launch))


def _printed(launch: "Launch") -> str:
    """The ranks as a shell would start them: by torchrun or accelerate, or each by itself, as the agent in this process
    does."""
    variables = [f"{name}={value}" for name, value in launch.env.items()]
    words = ["env", *variables, "python"] if variables else ["python"]
    if launch.argv:
        return f"{shlex.join([*words, '-m', *launch.argv])}\n"
    line = shlex.join([*words, "-m", "launcher.worker", str(launch.folder / paths.RECIPE)])
    settings = f"{launch.device}, {launch.threads} threads, {launch.max_restarts} restarts"
    return f"# {launch.ranks} ranks ({settings})\n{line}\n"
