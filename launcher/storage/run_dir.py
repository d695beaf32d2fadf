"""A run's folder as it is found: which checkpoints are whole, what recipe made it, where its metrics end.

Nothing here writes, except `mend_metrics`, which takes away a last line that was cut in the middle.
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

from launcher.config import load, strict_json
from launcher.config.atomic_files import allocated_bytes, is_file
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import Recipe, trajectory
from launcher.config.strict_json import DamagedFile, Wrong
from launcher.storage import checkpoint_format
from launcher.storage.checkpoint_format import COMPLETE, SavedCheckpoint
from launcher.storage.run_files import check_metrics

_BLOCK = 1 << 16
_LINE = "take this line out, or move the file away"


@dataclass(frozen=True)
class RunDir:
    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def cluster(self) -> Path:
        """The profile that the run was last started with."""
        return self.path / "cluster.yaml"

    @property
    def jobs(self) -> Path:
        """Scripts of jobs, and what the nodes of each start tell each other; jobs.jsonl beside it tells their story."""
        return self.path / "jobs"

    @property
    def facts(self) -> Path:
        return self.path / "facts.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def model(self) -> Path:
        """The model's configuration, as transformers writes it."""
        return self.path / "model"

    def whole(self) -> list[SavedCheckpoint]:
        """The whole checkpoints, the oldest first."""
        found = [path for path in self._checkpoints(checkpoint_format.NAME) if is_file(path / COMPLETE)]
        return sorted(map(SavedCheckpoint, found), key=lambda saved: saved.step)

    def half_written(self) -> list[Path]:
        """What a killed save left behind: never looked at, taken away by the next save. Folders with other names are
        the user's own."""
        found = self._checkpoints(checkpoint_format.HALF_WRITTEN)
        return sorted(p for p in found if p.is_dir() and not is_file(p / COMPLETE))

    def _checkpoints(self, names: str) -> list[Path]:
        """What has such a name among the checkpoints; nothing where their folder cannot be read."""
        try:
            return [path for path in self.checkpoints.iterdir() if re.fullmatch(names, path.name)]
        except OSError:
            return []

    def superseded(self, keep: int) -> list[SavedCheckpoint]:
        """The whole checkpoints that are neither among the `keep` newest nor the best."""
        whole = self.whole()
        kept = [*whole[-keep:], best(whole)]
        return [saved for saved in whole if saved not in kept]

    def spare(self, keep: int) -> list[SavedCheckpoint]:
        """What a save may remove before it writes, where room is short, instead of afterwards: never the newest."""
        return self.superseded(max(1, keep - 1))

    def reclaimable_bytes(self, keep: int) -> int:
        """Disk that a save frees before it writes, where room is short."""
        return sum(map(allocated_bytes, [*self.half_written(), *(saved.path for saved in self.spare(keep))]))

    def saved(self, which: str | int) -> SavedCheckpoint:
        """latest, best (by the metric that is watched), or a step. Raises UserError listing those that exist."""
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
        """Raises UserError where the folder was made by a recipe with another trajectory."""
        if not self.recipe.is_file() or not (self.whole() or self.metrics.is_file()):
            return
        there = trajectory(load.stored(self.recipe).value.model_dump(mode="json"))
        here = trajectory(recipe.model_dump(mode="json"))
        names = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        if names:
            first = "; ".join(f"{k}: {there.get(k)} there, {here.get(k)} here" for k in names[:4])
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            advice = "choose another name, or move it away"
            raise UserError(f"{self.path}: made by another recipe: {first}{more} ({advice})")

    def lines(self, last: int | None = None) -> Iterator[strict_json.Object]:
        """The whole lines of the metrics, in the order they were written; of the `last` bytes alone. Raises
        DamagedFile for the first that is."""
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
        """Raises DamagedFile with what a start would stumble over: in the metrics, or in the newest checkpoint's
        state."""
        problems = list[str | Problem]()
        for read in (lambda: deque(self.lines(), maxlen=0), lambda: [saved.state for saved in self.whole()[-1:]]):
            try:
                read()
            except DamagedFile as error:
                problems += error.problems
        if problems:
            raise DamagedFile(problems)

    def mend_metrics(self) -> str | None:
        """Take away a last line that a kill cut in the middle. Returns a note where there was one. Raises DamagedFile
        where the metrics are no file."""
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
    """The offset after the last newline before `end`; 0 where there is none."""
    while end > 0:
        begin = max(0, end - _BLOCK)
        data.seek(begin)
        if (at := data.read(end - begin).rfind(b"\n")) >= 0:
            return begin + at + 1
        end = begin
    return 0


def over(newest: SavedCheckpoint | None, steps: int | None) -> str | None:
    """Why there is nothing left to train after the newest checkpoint. `steps`: of the whole run, where known."""
    if newest is not None and newest.state.get("enough"):
        return f"stopped early at step {newest.step} (another name starts another run)"
    if newest is not None and steps is not None and newest.step >= steps:
        return f"all {steps} steps are done (another name starts another run)"
    return None


def best(whole: list[SavedCheckpoint]) -> SavedCheckpoint | None:
    """The checkpoint with the best watched metric, among those made at an evaluation: of the metric that was watched
    last. A damaged one is none."""
    found = dict[SavedCheckpoint, tuple[str, float]]()
    for saved in whole:
        with suppress(DamagedFile, ValueError, KeyError, TypeError):
            loss = {"metric": "eval/loss", "value": saved.state["evaluation"].get("eval/loss")}  # before one was named
            watched = saved.state.get("watched", loss)
            found[saved] = str(watched["metric"]), float(watched["value"])
    metric = next((metric for metric, _ in reversed(found.values())), "")
    values = {saved: value for saved, (name, value) in found.items() if name == metric and isfinite(value)}
    return min(values, key=values.__getitem__, default=None)
