"""Weights & Biases, online or offline: the resolved recipe as config, one run over all resumes.

The run's id is kept in the run folder. Offline, each start leaves a folder of its own under <run>/wandb with that same
id; `wandb sync --append` brings them together.
"""

import uuid
from typing import Any, Literal

from launcher.config.types import Plugin
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

        self._run: Any = wandb.init(
            id=_id(about), resume="allow", name=about.name, dir=about.folder, config=about.recipe, mode=config.mode,
            project=config.project, entity=config.entity, group=config.group, tags=config.tags,
            settings=wandb.Settings(silent=True, console="off", disable_code=True, disable_git=True),
        )  # fmt: skip
        self._run.define_metric("*", step_metric="step")

    def write(self, record: Record) -> None:
        self._run.log(record)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


def _id(about: About) -> str:
    file = about.folder / "wandb.id"
    if not file.is_file():
        aside = about.folder / ".wandb.id.partial"
        aside.write_text(uuid.uuid4().hex[:16], encoding="utf-8")
        aside.replace(file)
    return file.read_text(encoding="utf-8").strip()


def open(config: Config, about: About) -> Wandb:
    return Wandb(config, about)
