"""Weights & Biases, online or offline: the resolved recipe as config, one run over all resumes.

The run's id is kept in the run folder. Offline, each start leaves a folder of its own under <run>/wandb with that same
id. A rank that is killed takes with it what wandb had not yet written, so a start that goes on first tells wandb what
metrics.jsonl holds: the newest folder has the whole history, and is the one to sync.
"""

import os
import uuid
from typing import Any, Literal

from launcher.config.types import Plugin
from launcher.plan.folder import RunFolder
from launcher.sinks import About, Record


class Config(Plugin):
    """`mode` offline needs no network and no key. `project`, `entity`, `group` and `tags` as in wandb.init."""

    kind: Literal["wandb"] = "wandb"
    mode: Literal["online", "offline"] = "online"
    project: str = "launcher"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = []


class Wandb:
    def __init__(self, config: Config, about: About):
        import wandb

        os.environ.pop(wandb.env.SERVICE, None)  # another's would keep the run's id taken after this rank is killed
        self._run: Any = wandb.init(
            id=_id(about), resume="allow", name=about.name, dir=about.folder, config=about.recipe, mode=config.mode,
            project=config.project, entity=config.entity, group=config.group, tags=config.tags,
            settings=wandb.Settings(silent=True, console="off", disable_code=True, disable_git=True),
        )  # fmt: skip
        self._run.define_metric("*", step_metric="step")
        if config.mode == "offline":
            for record in _earlier(about):
                self._run.log(record)

    def write(self, record: Record) -> None:
        self._run.log(record)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


def _earlier(about: About) -> list[Record]:
    """What metrics.jsonl holds up to the step that this start goes on from; of a record told twice, the later."""
    told = {(line["step"], "loss" in line): line for line in RunFolder(about.folder).lines()}
    return [line for (step, _), line in told.items() if step <= about.start]


def _id(about: About) -> str:
    file = about.folder / "wandb.id"
    if not file.is_file():
        aside = about.folder / ".wandb.id.partial"
        aside.write_text(uuid.uuid4().hex[:16], encoding="utf-8")
        aside.replace(file)
    return file.read_text(encoding="utf-8").strip()


def open(config: Config, about: About) -> Wandb:
    return Wandb(config, about)
