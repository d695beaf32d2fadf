"""The scheduler of a job that was submitted before."""

from pydantic import ValidationError

from launcher.config import kinds, load, plugins, trust
from launcher.config.errors import UserError
from launcher.config.types import SchedulerConfig
from launcher.schedulers import RenderedJob, Scheduler
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir


def of(folder: RunDir, job: job_log.Job) -> Scheduler[RenderedJob]:
    """The scheduler that knows a job of a run, with the options of the run's profile. Raises UserError where its code
    is not trusted, since the run may be somebody else's."""
    try:
        config = load.stored_cluster(folder.cluster).value.scheduler
    except UserError:  # reported below where the profile is needed
        config = None
    if config is None or config.kind != job.scheduler:  # a later start of the run may have another profile
        config = _without_options(folder, job.scheduler)
    return plugins.scheduler(config)


def _without_options(folder: RunDir, kind: str) -> SchedulerConfig:
    try:
        with trust.loading(folder.cluster):
            return kinds.config_class("schedulers", kind, SchedulerConfig).model_validate({"kind": kind})
    except ValidationError:
        raise UserError(f"{folder.cluster}: no profile of kind {kind}, which its job was submitted to") from None
    except kinds.KindError as error:
        raise UserError(f"{folder.path}: the scheduler of its job: {error}") from None
