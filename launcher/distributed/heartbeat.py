"""The positions of a machine's ranks, in a memory-mapped file that their launcher reads too, and reports of stalls.

A rank that is stuck cannot report anything, but its launcher sees its position. A beat costs a few writes to memory.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

HEARTBEATS = "heartbeats"
"""Name of the file in the folder that a launcher shares with its ranks."""
SILENCE = 60.0
"""Seconds without a beat of any rank after which a stall is reported."""
_LONG_STEP = 5
"""A stall is reported only after this many times the longest pause between beats so far."""

_log = logging.getLogger(__name__)


class Stage(IntEnum):
    """The stages of a step, in the order in which a rank goes through them."""

    STARTING = 0
    LOADING = 1
    AGREEING = 2
    FORWARD = 3
    BACKWARD = 4
    REDUCING = 5
    UPDATING = 6
    EVALUATING = 7
    SAVING = 8
    LEAVING = 9

    @property
    def description(self) -> str:
        """The stage in words: `in the forward pass`."""
        return _DESCRIPTIONS[self]


_DESCRIPTIONS = {
    Stage.STARTING: "starting", Stage.LOADING: "waiting for data", Stage.AGREEING: "waiting for the other ranks",
    Stage.FORWARD: "in the forward pass", Stage.BACKWARD: "in the backward pass", Stage.REDUCING: "adding up losses",
    Stage.UPDATING: "updating the parameters", Stage.EVALUATING: "evaluating", Stage.SAVING: "saving a checkpoint",
    Stage.LEAVING: "leaving",
}  # fmt: skip


_POSITION = 5
"""Number of columns of a position. After them stand the nanoseconds spent in each stage."""
_COLUMNS = _POSITION + len(Stage)


@dataclass(frozen=True, order=True)
class Position:
    """The position of a rank in training. Of two positions, the smaller one is further behind.

    `left`: minus the number of micro-batches that remain in the step. `time`: of the beat, in seconds of the machine's
    monotonic clock.
    """

    step: int
    left: int
    stage: Stage
    rank: int
    time: float

    @property
    def progress(self) -> tuple[int, int, Stage]:
        """The values that are compared between ranks."""
        return self.step, self.left, self.stage

    def __str__(self) -> str:
        return f"at step {self.step} ({self.stage.description})" if self.step else self.stage.description


class Heartbeat:
    """The beats of one rank.

    `file`: created by `create`; None: beats are dropped. `row`: number of the rank on this machine.
    """

    def __init__(self, file: Path | None = None, row: int = 0, rank: int = 0):
        rows = np.zeros((1, _COLUMNS), dtype=np.int64) if file is None else _map(file, "r+")
        self._row = rows[0 if file is None else row]
        self._row[3:5] = rank, time.monotonic_ns()
        self.beat(Stage.STARTING)

    def beat(self, stage: Stage, step: int = 0, left: int = 0) -> None:
        """Record the position, and add the time since the last beat to that of its stage. `left`: number of
        micro-batches that remain in this step."""
        now = time.monotonic_ns()
        self._row[_POSITION + self._row[2]] += now - self._row[4]
        self._row[:3] = step, -left, stage
        self._row[4] = now

    @property
    def seconds(self) -> dict[Stage, float]:
        """Seconds that this rank has spent in each stage, up to the last beat."""
        return {stage: float(self._row[_POSITION + stage]) / 1e9 for stage in Stage}

    @property
    def position(self) -> Position:
        """The position of this rank."""
        return _position(self._row.tolist())


def create(file: Path, ranks: int) -> None:
    """Create the file for this many ranks."""
    np.zeros((ranks, _COLUMNS), dtype=np.int64).tofile(file)


def read(file: Path) -> list[Position]:
    """Return the position of each rank of this machine that has started."""
    return [_position(row) for row in _map(file, "r").tolist() if row[4]]


def have_stepped(file: Path) -> bool:
    """Return whether all ranks of this machine have completed a step since the file was created."""
    return bool((_map(file, "r")[:, _POSITION + Stage.UPDATING] > 0).all())


def behind(positions: Sequence[Position]) -> list[Position]:
    """Return the ranks that are furthest behind: the others wait for them."""
    least = min((position.progress for position in positions), default=None)
    return [position for position in positions if position.progress == least]


class StallReport:
    """Reports of stalls. In a stall, no rank of this machine makes progress for a while."""

    def __init__(self) -> None:
        self._newest, self._longest_pause, self._reported = 0.0, 0.0, 0.0

    def update(self, positions: list[Position]) -> None:
        """Log a stall if there is one. `positions`: of all ranks of this machine that have started."""
        begun = [position for position in positions if position.stage is not Stage.STARTING]
        newest = max((position.time for position in begun), default=0.0)
        if newest > self._newest:
            if self._newest:
                self._longest_pause = max(self._longest_pause, newest - self._newest)
            self._newest, self._reported = newest, 0.0
            return
        silent = time.monotonic() - newest
        if begun and silent > max(SILENCE, _LONG_STEP * self._longest_pause, 2 * self._reported):
            self._reported = silent
            _log.warning("note: %s", describe_stall(positions, silent))


def describe_stall(positions: list[Position], seconds: float) -> str:
    """Return a sentence that names the ranks furthest behind."""
    slowest = behind(positions)
    names = ", ".join(str(position.rank) for position in slowest)
    who = f"rank {names} is" if len(slowest) == 1 else f"ranks {names} are"
    waiting = "; the others wait" if len(slowest) < len(positions) else ""
    return f"no rank has moved on for {seconds:.0f} s: {who} {slowest[0]}{waiting}"


def _position(row: Sequence[int]) -> Position:
    return Position(row[0], row[1], Stage(row[2]), row[3], row[4] / 1e9)


def _map(file: Path, mode: Literal["r", "r+"]) -> NDArray[np.int64]:
    mapped: NDArray[np.int64] = np.memmap(file, dtype=np.int64, mode=mode).reshape(-1, _COLUMNS)
    return mapped
