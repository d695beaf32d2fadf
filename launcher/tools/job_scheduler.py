"""The scheduler of a submitted job."""

from typing import cast

from pydantic import ValidationError

from launcher.config import env_vars, kinds, load, plugins, trust
from launcher.config.errors import UserError
from launcher.config.profile_values import STORED
from launcher.config.types import JsonObject, SchedulerConfig
from launcher.schedulers import RenderedJob, Scheduler
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir


def options(config: SchedulerConfig) -> JsonObject:
    """Return the options of a scheduler in the form in which a job records them: without secrets and variables."""
    return cast(JsonObject, _without_secrets(config.model_dump(mode="json", exclude={"kind"})))


def of(folder: RunDir, job: job_log.Job) -> Scheduler[RenderedJob]:
    """Return the scheduler of a run's job, with the options of the submission. Raises UserError if its code is not
    trusted, because the run may be somebody else's."""
    last = _of_last_start(folder)  # the last start may have another profile
    if last is not None and last.kind == job.scheduler and job.options in (None, options(last)):
        return plugins.scheduler(last)
    return plugins.scheduler(_recorded(folder, job))


def _of_last_start(folder: RunDir) -> SchedulerConfig | None:
    try:
        return load.stored_cluster(folder.cluster).value.scheduler
    except UserError:  # reported below if the profile is needed
        return None


def _recorded(folder: RunDir, job: job_log.Job) -> SchedulerConfig:
    """Return the options in the job log; if there are none, as from an earlier launcher, the defaults of the kind."""
    keys = {**(job.options or {}), "kind": job.scheduler}
    try:
        with trust.loading(folder.job_log):
            config = kinds.config_class("schedulers", job.scheduler, SchedulerConfig)
            return config.model_validate(keys, context={STORED: True})
    except ValidationError:
        raise UserError(
            f"{folder.cluster}: no profile of kind {job.scheduler}, which its job was submitted to"
        ) from None
    except kinds.KindError as error:
        raise UserError(f"{folder.path}: the scheduler of its job: {error}") from None


def _without_secrets(value: object) -> object:
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_secrets(item) for key, item in value.items() if key != "env" and not env_vars.is_secret(key)}
