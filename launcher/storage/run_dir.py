"""A run folder: its checkpoints, its recipe and its metrics.

Nothing here writes, except `mend_metrics`, which removes an incomplete last line.
"""

import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import BinaryIO

from launcher.config import load, paths, strict_json
from launcher.config.atomic_files import allocated_bytes, is_file
from launcher.config.errors import UserError
from launcher.config.paths import COMPLETE
from launcher.config.recipe import Recipe, trajectory
from launcher.config.strict_json import DamagedFile, Wrong
from launcher.config.training import Checkpoint
from launcher.config.types import JsonObject
from launcher.storage import checkpoint_format
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_files import check_metrics

_BLOCK = 1 << 16
_LINE = "take this line out, or move the file away"


@dataclass(frozen=True)
class RunDir:
    """The folder of a run (see launcher.config.paths)."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / paths.RECIPE

    @property
    def plan(self) -> Path:
        return self.path / paths.PLAN

    @property
    def cluster(self) -> Path:
        """The cluster profile of the last start."""
        return self.path / paths.CLUSTER

    @property
    def jobs(self) -> Path:
        """Folder of the scripts of jobs, and of the files through which the nodes of a start find each other."""
        return self.path / paths.JOBS

    def start_folder(self, job: str, number: int) -> Path:
        """Return the folder for the rendezvous of a start's nodes."""
        return self.jobs / paths.start_name(job, number)

    @property
    def facts(self) -> Path:
        return self.path / paths.FACTS

    @property
    def job_log(self) -> Path:
        """The events of the run's jobs (see launcher.storage.job_log)."""
        return self.path / paths.JOB_LOG

    @property
    def roll_backs(self) -> Path:
        """The spikes after which training went back (see launcher.storage.roll_backs)."""
        return self.path / paths.ROLL_BACKS

    @property
    def ledger(self) -> Path:
        """The seconds of the run by purpose (see launcher.storage.ledger)."""
        return self.path / paths.LEDGER

    @property
    def token_limit(self) -> Path:
        """The largest micro-batch that may fit into memory (see launcher.storage.token_limit)."""
        return self.path / paths.TOKEN_LIMIT

    @property
    def environment(self) -> Path:
        """The versions of Python and of the libraries."""
        return self.path / paths.ENVIRONMENT

    @property
    def metrics(self) -> Path:
        return self.path / paths.METRICS

    @property
    def checkpoints(self) -> Path:
        return self.path / paths.CHECKPOINTS

    @property
    def logs(self) -> Path:
        return self.path / paths.LOGS

    def job_output(self, id: str) -> Path:
        """Return the output file of a job. `id`: the scheduler's id of the job."""
        return self.logs / paths.job_output(id)

    @property
    def report(self) -> Path:
        return self.path / paths.REPORT

    @property
    def tokenizer(self) -> Path:
        return self.path / paths.TOKENIZER

    @property
    def model(self) -> Path:
        """The configuration of the model, as transformers writes it."""
        return self.path / paths.MODEL

    def whole(self) -> list[SavedCheckpoint]:
        """Return the complete checkpoints, the oldest first."""
        found = [path for path in self._checkpoints(checkpoint_format.NAME) if is_file(path / COMPLETE)]
        return sorted(map(SavedCheckpoint, found), key=lambda saved: saved.step)

    def half_written(self) -> list[Path]:
        """Return what killed saves have left, for the next save to remove. Other folders belong to the user."""
        found = self._checkpoints(checkpoint_format.HALF_WRITTEN)
        return sorted(p for p in found if p.is_dir() and not is_file(p / COMPLETE))

    def _checkpoints(self, names: str) -> list[Path]:
        """Return the entries of the checkpoints folder that match the pattern `names`; empty: it cannot be read."""
        try:
            return [path for path in self.checkpoints.iterdir() if re.fullmatch(names, path.name)]
        except OSError:
            return []

    def superseded(self, keep: Checkpoint) -> list[SavedCheckpoint]:
        """Return the complete checkpoints that are neither among the newest that are kept, nor the best one, nor of a
        step that is kept."""
        return self._superseded(keep.keep, keep.keep_every)

    def spare(self, keep: Checkpoint) -> list[SavedCheckpoint]:
        """Return the checkpoints that a save may remove before it writes, if the disk is full; never the newest."""
        return self._superseded(max(1, keep.keep - 1), keep.keep_every)

    def _superseded(self, newest: int, every: int | None) -> list[SavedCheckpoint]:
        whole = self.whole()
        kept = [*whole[-newest:], best(whole)]
        return [saved for saved in whole if saved not in kept and not (every and saved.step % every == 0)]

    def reclaimable_bytes(self, keep: Checkpoint) -> int:
        """Return the bytes that a save can free before it writes."""
        return sum(map(allocated_bytes, [*self.half_written(), *(saved.path for saved in self.spare(keep))]))

    def saved(self, which: str | int) -> SavedCheckpoint:
        """Return the checkpoint of a step, or `latest`, or `best` by the watched metric.

        Raises UserError with a list of the existing ones.
        """
        whole = self.whole()
        if not whole:
            raise UserError(f"{self.checkpoints}: no whole checkpoint in it (train this run first)")
        if which == "latest":
            return whole[-1]
        if which == "best":
            return best(whole) or whole[-1]
        for saved in whole:
            if saved.step == which:
                return saved
        steps = ", ".join(str(saved.step) for saved in whole)
        raise UserError(f"{self.checkpoints}: no whole checkpoint of step {which} (there are: {steps}, latest, best)")

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise UserError if a recipe with another trajectory has trained in this folder."""
        if not self.recipe.is_file() or not (self.whole() or self.metrics.is_file()):
            return
        there = trajectory(load.stored(self.recipe).value)
        here = trajectory(recipe)
        names = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        if names:
            first = "; ".join(f"{k}: {there.get(k)} there, {here.get(k)} here" for k in names[:4])
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            advice = "choose another name, or move it away"
            raise UserError(f"{self.path}: made by another recipe: {first}{more} ({advice})")

    def lines(self, last: int | None = None) -> Iterator[JsonObject]:
        """Yield the records of the metrics in their order, without an incomplete last line.

        `last`: only the records in this many bytes at the end of the file. Raises DamagedFile for the first damaged
        record.
        """
        if not strict_json.exists(self.metrics):
            return
        begin = 0 if last is None else max(0, strict_json.size(self.metrics, _LINE) - last)
        for offset, line in strict_json.lines(self.metrics, _LINE, begin):
            if not line.endswith(b"\n"):
                return
            try:
                record = strict_json.parse(line)
                check_metrics(record)
            except Wrong as error:
                raise strict_json.damage(strict_json.place(self.metrics, offset), error, _LINE) from None
            yield record

    def check_files(self) -> None:
        """Raise DamagedFile if the metrics, which a start reads, are damaged. Ranks verify the checkpoints."""
        deque(self.lines(), maxlen=0)

    def mend_metrics(self) -> str | None:
        """Remove an incomplete last line of the metrics, which a killed process leaves.

        Returns a note; None: the last line was complete. Raises DamagedFile if the metrics are no regular file.
        """
        if not strict_json.exists(self.metrics):
            return None
        with strict_json.opened(self.metrics, _LINE) as data:
            size = data.seek(0, os.SEEK_END)
            kept = _after_newline(data, size)
        if kept == size:
            return None
        os.truncate(self.metrics, kept)  # in place: a full disk has no room for a copy
        return f"{self.metrics}: its last line was cut in the middle: {size - kept} bytes taken away"


def _after_newline(data: BinaryIO, end: int) -> int:
    """Return the offset after the last newline before `end`; 0: there is none."""
    while end > 0:
        begin = max(0, end - _BLOCK)
        data.seek(begin)
        if (at := data.read(end - begin).rfind(b"\n")) >= 0:
            return begin + at + 1
        end = begin
    return 0


def over(newest: SavedCheckpoint | None, steps: int | None) -> str | None:
    """Return why nothing is left to train after the newest checkpoint; None: something is left.

    `steps`: steps of the whole run, if known.
    """
    if newest is not None and newest.state.get("evaluation_due"):
        return None
    if newest is not None and newest.state.get("enough"):
        return f"stopped early at step {newest.step} (another name starts another run)"
    if newest is not None and steps is not None and newest.step >= steps:
        return f"all {steps} steps are done (another name starts another run)"
    return None


def best(whole: list[SavedCheckpoint]) -> SavedCheckpoint | None:
    """Return the checkpoint with the best value of the watched metric; None: there is none.

    Checkpoints count if they were saved at an evaluation and watched the same metric as the newest one. Damaged ones
    are ignored.
    """
    found = dict[SavedCheckpoint, tuple[str, float]]()
    for saved in whole:
        with suppress(DamagedFile, ValueError, KeyError, TypeError):
            loss = {
                "metric": "eval/loss",
                "value": saved.state["evaluation"].get("eval/loss"),
            }  # of an earlier launcher
            watched = saved.state.get("watched", loss)
            found[saved] = str(watched["metric"]), float(watched["value"])
    metric = next((metric for metric, _ in reversed(found.values())), "")
    values = {saved: value for saved, (name, value) in found.items() if name == metric and isfinite(value)}
    return min(values, key=values.__getitem__, default=None)
