"""A run's folder as it is found: which checkpoints are whole, what recipe made it, where its metrics end.

Nothing here writes, except `mend_metrics`, which takes away a last line that was cut in the middle.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

import xxhash

from launcher.config import load
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe, trajectory

COMPLETE = "COMPLETE"
_NAME = r"step-\d+"


def checksum(file: Path) -> str:
    """The XXH3 128-bit hash of a file's bytes, in hexadecimal."""
    state = xxhash.xxh3_128()
    with file.open("rb") as data:
        while block := data.read(1 << 22):
            state.update(block)
    return str(state.hexdigest())


@dataclass(frozen=True)
class Saved:
    """A whole checkpoint."""

    path: Path

    @cached_property
    def step(self) -> int:
        return int(self.path.name.removeprefix("step-"))

    @cached_property
    def state(self) -> dict[str, Any]:
        """step, samples, tokens, seconds, data (the digest of the prepared data), evaluation. Raises ValueError where
        the file is damaged, which `verify` tells."""
        return dict(json.loads((self.path / "state.json").read_text(encoding="utf-8")))

    def verify(self) -> None:
        """Raises UserError naming the first file that is not as it was written."""
        advice = f"move {self.path} away to go on from the checkpoint before it"
        try:
            files = json.loads((self.path / COMPLETE).read_text(encoding="utf-8"))["files"]
            written = [(name, size, digest) for name, (size, digest) in files.items()]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{self.path / COMPLETE}: damaged: not what was written ({advice})") from None
        for name, size, digest in written:
            file = self.path / name
            if not file.is_file():
                raise UserError(f"{file}: missing from the checkpoint ({advice})")
            if file.stat().st_size != size or checksum(file) != digest:
                raise UserError(f"{file}: damaged: its content is not what was written ({advice})")


@dataclass(frozen=True)
class RunFolder:
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

    def whole(self) -> list[Saved]:
        """The whole checkpoints, the oldest first."""
        found = [p for p in self.checkpoints.glob("step-*") if re.fullmatch(_NAME, p.name)]
        return sorted((Saved(p) for p in found if (p / COMPLETE).is_file()), key=lambda saved: saved.step)

    def half_written(self) -> list[Path]:
        """What a killed save left behind: never looked at, taken away by the next save. Folders with other names are
        the user's own."""
        if not self.checkpoints.is_dir():
            return []
        names = rf"{_NAME}|\.{_NAME}(\.[0-9a-f]+)?\.partial"
        found = [p for p in self.checkpoints.iterdir() if re.fullmatch(names, p.name) and p.is_dir()]
        return sorted(p for p in found if not (p / COMPLETE).is_file())

    def saved(self, which: str | int) -> Saved:
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
        there = trajectory(load.recipe(self.recipe).value.model_dump(mode="json"))
        here = trajectory(recipe.model_dump(mode="json"))
        names = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        if names:
            first = "; ".join(f"{k}: {there.get(k)} there, {here.get(k)} here" for k in names[:4])
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            advice = "choose another name, or move it away"
            raise UserError(f"{self.path}: made by another recipe: {first}{more} ({advice})")

    def lines(self) -> Iterator[dict[str, Any]]:
        """The whole lines of the metrics, in the order they were written. Raises UserError for a damaged one."""
        if not self.metrics.is_file():
            return
        with self.metrics.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    record = json.loads(line)
                except ValueError:
                    record = None
                if not isinstance(record, dict):
                    advice = "take this line out, or move the file away"
                    raise UserError(f"{self.metrics}:{number}: damaged: not a JSON object ({advice})")
                yield record

    def mend_metrics(self) -> str | None:
        """Take away a last line that a kill cut in the middle. Returns a note where there was one."""
        if not self.metrics.is_file():
            return None
        text = self.metrics.read_bytes()
        kept = text[: text.rfind(b"\n") + 1]
        if kept == text:
            return None
        aside = self.metrics.with_name(f".{self.metrics.name}.partial")
        aside.write_bytes(kept)
        aside.replace(self.metrics)
        return f"{self.metrics}: its last line was cut in the middle: {len(text) - len(kept)} bytes taken away"


def best(whole: list[Saved]) -> Saved | None:
    """The checkpoint with the best watched metric, among those made at an evaluation: of the metric that was watched
    last. A damaged one is none."""
    found = dict[Saved, tuple[str, float]]()
    for saved in whole:
        with suppress(ValueError, KeyError, TypeError, AttributeError, OSError):
            loss = {"metric": "eval/loss", "value": saved.state["evaluation"].get("eval/loss")}  # before one was named
            watched = saved.state.get("watched", loss)
            found[saved] = str(watched["metric"]), float(watched["value"])
    metric = next((metric for metric, _ in reversed(found.values())), "")
    values = {saved: value for saved, (name, value) in found.items() if name == metric and isfinite(value)}
    return min(values, key=values.__getitem__, default=None)
