"""Weights & Biases, online or offline: one wandb run over all starts, with the resolved recipe as its config.

The run folder has the wandb id. Offline, each start creates a folder under <run>/wandb with that id. If a rank is
killed, records that wandb has not written yet are lost. A resumed run therefore first logs the records of metrics.jsonl
again. The newest folder then has the whole history: sync that one.

wandb writes in another process, which does not report losses. Therefore a missing folder and a full disk are checked
before each record, and cause a warning. Training continues.
"""

import errno
import os
import re
import uuid
from pathlib import Path
from typing import Any, Literal

from launcher import sinks
from launcher.config import paths, strict_json
from launcher.config.atomic_files import free_bytes, write
from launcher.config.types import Plugin
from launcher.sinks import Record, RunInfo, warn
from launcher.storage import disk_full
from launcher.storage.run_dir import RunDir


class Config(Plugin):
    """Weights & Biases."""

    kind: Literal["wandb"] = "wandb"
    mode: Literal["online", "offline"] = "online"
    """`offline` writes files for a later upload, without network or key."""
    project: str = "launcher"
    """Name of the project."""
    entity: str | None = None
    """User or team."""
    group: str | None = None
    """Group of runs."""
    tags: list[str] = []
    """Tags of the run."""


_ADVICE = "remove it, and another wandb run begins"
_LONGEST = 100
"""Maximum size of the file with the id, in bytes."""
_BLOCK = 2**15
"""Bytes that wandb writes in one block."""


class Sink(sinks.Sink[Config]):
    def __init__(self, config: Config, about: RunInfo):
        import wandb

        os.environ.pop(wandb.env.SERVICE, None)  # type: ignore[attr-defined]  # the service of another process would keep the id in use after this rank is killed
        self._run: Any = wandb.init(
            id=_id(about), resume="allow", name=about.name, dir=about.folder, config=about.recipe, mode=config.mode,
            project=config.project, entity=config.entity, group=config.group, tags=config.tags,
            settings=wandb.Settings(silent=True, console="off", disable_code=True, disable_git=True),
        )  # fmt: skip
        self._folder, self._metrics = Path(self._run.dir), RunDir(about.folder).metrics
        self._warned = set[str]()
        self._run.define_metric("*", step_metric="step")
        if config.mode == "offline":
            for record in _earlier(about):
                self._run.log(record)

    def write(self, record: Record) -> None:
        self._warn_of_losses(record["step"])
        self._run.log(record)

    def _warn_of_losses(self, step: int) -> None:
        """Warn once for each cause that records may be lost from here on, and say where they are kept."""
        if not self._folder.is_dir():
            what = f"{self._folder.parent} was deleted"
        elif free_bytes(self._folder) < _BLOCK:
            what = disk_full.sentence(self._folder.parent, errno.ENOSPC)
        else:
            return
        kept = f"{self._metrics} has every record" if self._metrics.is_file() else "sinks: [wandb, jsonl] keeps them"
        kind = what.partition(":")[0]
        if kind not in self._warned:
            warn(f"wandb: {what}; records from step {step} on are lost to it, training goes on ({kept})")
        self._warned.add(kind)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


def _earlier(about: RunInfo) -> list[Record]:
    """Return the records of metrics.jsonl up to the step that this start continues from.

    If a step has two records of a kind, the later one is returned.
    """
    records = {(line["step"], "loss" in line): line for line in RunDir(about.folder).lines()}
    return [line for (step, _), line in records.items() if step <= about.start]


def _id(about: RunInfo) -> str:
    """Return the wandb id in the run folder. The first start creates it. Raises DamagedFile for anything else, since
    wandb makes it a part of paths."""
    file = about.folder / paths.WANDB_ID
    if not strict_json.exists(file):
        write(file, uuid.uuid4().hex[:16])
    with strict_json.opened(file, _ADVICE) as data:
        content = data.read(_LONGEST + 1).strip()
    if not re.fullmatch(rb"[A-Za-z0-9_-]{1,64}", content):
        raise strict_json.damage(file, "not the id of a wandb run", _ADVICE)
    return content.decode()
