"""Weights & Biases, online or offline: one wandb run over all starts, with the resolved recipe as its config.

The run folder has the wandb id. Offline, each start creates a folder under <run>/wandb with that id. If a rank is
killed, records that wandb has not written yet are lost. A resumed run therefore first logs the records of metrics.jsonl
again. The newest folder then has the whole history: sync that one. Online, only those are logged again that the server
lacks. Each record has a step of wandb's own, which wandb drops if it has it, so that a repeated record is not doubled.
If the server cannot be reached at a start, that start is offline.

wandb writes in another process, which does not report losses. Therefore a missing folder and a full disk are checked
before each record, and cause a warning. Training continues.
"""

import errno
import os
import uuid
from pathlib import Path
from typing import Any, ClassVar, Literal

from launcher import sinks
from launcher.config import paths
from launcher.config.atomic_files import free_bytes, write
from launcher.config.types import JsonObject, Plugin
from launcher.sinks import Record, RunInfo, earlier, stored_id, warn
from launcher.storage import disk_full, roll_backs
from launcher.storage.run_dir import RunDir

Mode = Literal["online", "offline"]


class Config(Plugin):
    """Weights & Biases."""

    kind: Literal["wandb"] = "wandb"
    mode: Mode = "online"
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
_BLOCK = 2**15
"""Bytes that wandb writes in one block."""
_CONNECT, _UPLOAD = 30.0, 120.0
"""Seconds to wait for the server at the start, and for the upload at the end."""
_CLASSES = 100
"""Maximum number of classes of a confusion matrix."""


class Sink(sinks.Sink[Config]):
    takes_reports: ClassVar[bool] = True

    def __init__(self, config: Config, about: RunInfo):
        import wandb

        os.environ.pop(wandb.env.SERVICE, None)  # type: ignore[attr-defined]  # the service of another process would keep the id in use after this rank is killed
        self._warned, self._roll_backs = set[str](), roll_backs.read(RunDir(about.folder))
        self._mode, self._run = _open(config, about)
        self._folder, self._metrics = Path(self._run.dir), RunDir(about.folder).metrics
        self._run.define_metric("*", step_metric="step")
        known = self._run.step  # 0 offline, where nothing is known of the earlier starts
        for record in earlier(about):
            if self._step_of(record) >= known:
                self._log(record)

    def _log(self, record: Record) -> None:
        self._run.log(record, step=self._step_of(record), commit=True)

    def _step_of(self, record: Record) -> int:
        """Return wandb's own step of a record: each step has one for training, for a report and for an evaluation.

        What is trained anew after a spike has later ones than what was trained before.
        """
        step: int = record["step"]
        again = sum(spike.step + 2 - spike.first for spike in self._roll_backs if spike.first <= step)
        return 3 * (step + again) + (0 if "loss" in record else 1 if "report" in record else 2)

    def write(self, record: Record) -> None:
        self._warn_of_losses(record["step"])
        self._log(record)

    def report(self, step: int, report: JsonObject) -> None:
        """Log the table of classes and the confusion matrix."""
        import wandb

        tables: JsonObject = {}
        if classes := report.get("classes"):
            names = [*next(iter(classes.values()))]
            rows = [[label, *(values.get(name) for name in names)] for label, values in classes.items()]
            tables["tables/classes"] = wandb.Table(columns=["class", *names], data=rows)
        if (counts := report.get("confusion")) and len(counts) <= _CLASSES:
            tables["tables/confusion"] = _confusion(counts, report["labels"])
        if tables and self._folder.is_dir():
            self._run.log({"step": step, **tables}, step=self._step_of({"step": step, "report": ...}), commit=True)

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
        """Finish the wandb run, and print the command that uploads what is not uploaded."""
        what = "offline"
        try:
            self._run.finish(exit_code=0 if finished else 1)
        except TimeoutError:
            what = f"the upload was not done after {_UPLOAD:.0f} s"
        if self._folder.is_dir() and (what != "offline" or (finished and self._mode == "offline")):
            warn(f"wandb: {what}; to upload the whole run: wandb sync {self._folder.parent}")


def _open(config: Config, about: RunInfo) -> tuple[Mode, Any]:
    """Begin or continue the wandb run. Returns its mode and the run. Without an answer of the server it is offline."""
    import wandb

    settings = {
        "silent": True, "console": "off", "disable_code": True, "disable_git": True, "init_timeout": _CONNECT,
        "finish_timeout": _UPLOAD, "finish_timeout_raises": True,
    }  # fmt: skip

    def begin(mode: Mode) -> Any:
        return wandb.init(
            id=_id(about), resume="allow", name=about.name, dir=about.folder, config=about.recipe, mode=mode,
            project=config.project, entity=config.entity, group=config.group, tags=config.tags,
            settings=wandb.Settings(**settings),
        )  # fmt: skip

    if config.mode == "online":
        try:
            return "online", begin("online")
        except wandb.Error as error:
            why = str(error).strip().partition("\n")[0][:200]
            warn(f"wandb: {why}; this start is logged offline, and the command to upload it follows at the end")
            wandb.teardown()  # its service keeps the id in use
    return "offline", begin("offline")


def _confusion(counts: list[list[int]], labels: list[str]) -> Any:
    """Return a confusion matrix as wandb's own chart."""
    import wandb

    rows = [[labels[i], labels[j], count] for i, row in enumerate(counts) for j, count in enumerate(row)]
    names = ["Actual", "Predicted", "nPredictions"]
    return wandb.plot_table(
        vega_spec_name="wandb/confusion_matrix/v1", data_table=wandb.Table(columns=names, data=rows),
        fields={name: name for name in names}, string_fields={"title": "confusion"},
    )  # fmt: skip


def _id(about: RunInfo) -> str:
    """Return the wandb id in the run folder. The first start creates it. Raises DamagedFile."""
    file = about.folder / paths.WANDB_ID
    if (known := stored_id(file, _ADVICE)) is not None:
        return known
    write(file, new := uuid.uuid4().hex[:16])
    return new
