"""The record of a hang in the run's job log and in the log of the process that found it."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

from launcher.config import env_vars, paths
from launcher.config.strict_json import shown
from launcher.distributed.hangs import Hang
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir

_LONGEST = 400
"""Maximum number of characters of a recorded sentence."""

_log = logging.getLogger(__name__)


def record(folder: Path, hang: Hang, action: Literal["restart", "fail", "report"]) -> None:
    """Append a hang to the job log of a run, and log it if nothing else will be done."""
    event = {
        "event": "hang", "job": os.environ.get(env_vars.JOB, job_log.BY_HAND),
        "start": int(os.environ.get(env_vars.START, 0)), "rank": hang.rank, "stage": hang.stage.phase,
        "step": hang.step, "seconds": round(hang.seconds, 1), "action": action,
        "error": shown(hang.sentence, _LONGEST),
    }  # fmt: skip
    with suppress(OSError):  # a full disk
        job_log.append(RunDir(folder), event)
    if action == "report":
        _log.warning("note: %s (the stacks of all ranks: %s/%s*.txt)", hang.sentence, folder / paths.LOGS, paths.STACKS)
