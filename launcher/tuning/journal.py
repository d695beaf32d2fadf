"""The journal of a search: what was begun and measured, one JSON object a line.

Ranks and the launcher append to it, and ranks that are started again read it.
"""

import json
from pathlib import Path
from typing import NamedTuple

from launcher.config.atomic_files import append_line
from launcher.config.base_model import Strict
from launcher.tuning.setting import Setting

FILE = "tune.jsonl"
TOO_LARGE, ENDED = "does not fit into memory", "ended the ranks (see above)"
"""Why a trial has no result."""


class Trial(Strict):
    """Steps to measure in a setting. `first`: number of the first measured step; `count`: number of measured steps;
    `warm`: number of steps before them that do not count."""

    setting: Setting
    first: int
    count: int
    warm: int = 1


class Measured(Strict):
    """Result of a trial, the same on all ranks.

    `seconds`, `losses`, `data`, `tokens`: of each measured step: its time, its loss, the digest of its samples and
    their tokens. `fill`: share of the computed positions that are tokens. `waited`: share of the time in which
    the slowest rank waited for data. `memory`: maximum bytes that a rank needed. `micro_batches`: maximum number in a
    step. `padding_free`: whether rows had no padding. `clock`: seconds since the search began. `built`: seconds for
    which an engine was built. `wrong`: why there is no result; empty: there is one.
    """

    seconds: list[float] = []
    losses: list[float | None] = []
    data: list[str] = []
    tokens: list[int] = []
    fill: float = 0.0
    waited: float = 0.0
    memory: int = 0
    micro_batches: int = 0
    padding_free: bool = False
    clock: float = 0.0
    built: float = 0.0
    wrong: str = ""


class Entry(NamedTuple):
    """A trial and its result; None: it has only begun."""

    trial: Trial
    measured: Measured | None


def begin(folder: Path, trial: Trial) -> None:
    """Record that a trial begins."""
    _append(folder, {"trial": trial.model_dump(mode="json")})


def end(folder: Path, measured: Measured) -> None:
    """Record the result of the trial that was begun last."""
    _append(folder, {"measured": measured.model_dump(mode="json")})


def read(folder: Path) -> list[Entry]:
    """Return what the journal has, in order. Of several results of a trial, as of ranks that fail together, the first
    counts. A line that was cut is ignored."""
    found = list[Entry]()
    file = folder / FILE
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            known = json.loads(line)
        except ValueError:
            continue
        if "trial" in known:
            found.append(Entry(Trial.model_validate(known["trial"]), None))
        elif found and found[-1].measured is None:
            found[-1] = Entry(found[-1].trial, Measured.model_validate(known["measured"]))
    return found


def _append(folder: Path, record: dict[str, object]) -> None:
    append_line(folder / FILE, json.dumps(record))
