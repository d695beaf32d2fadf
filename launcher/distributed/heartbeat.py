"""The positions of a machine's ranks, in a memory-mapped file that their launcher reads too.

A rank that is stuck cannot report anything, but its launcher sees its position. A beat costs a few writes to memory.
"""

import os
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
_LATER = 5
"""A rank is allowed this many times the longest pause so far in the same stage."""
_FIRST = 2
"""The same for the pauses of the first visit of a stage, which is often far longer than all later ones."""


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
    SCORING = 8
    SAVING = 9
    LEAVING = 10

    @property
    def description(self) -> str:
        """The stage in words: `in the forward pass`."""
        return _DESCRIPTIONS[self]

    @property
    def phase(self) -> str:
        """The stage as a noun: `forward`."""
        return _PHASES[self]


_DESCRIPTIONS = {
    Stage.STARTING: "starting", Stage.LOADING: "waiting for data", Stage.AGREEING: "waiting for the other ranks",
    Stage.FORWARD: "in the forward pass", Stage.BACKWARD: "in the backward pass", Stage.REDUCING: "adding up losses",
    Stage.UPDATING: "updating the parameters", Stage.EVALUATING: "evaluating", Stage.SCORING: "computing metrics",
    Stage.SAVING: "saving a checkpoint", Stage.LEAVING: "leaving",
}  # fmt: skip


_PHASES = {
    Stage.STARTING: "startup", Stage.LOADING: "data", Stage.AGREEING: "sync", Stage.FORWARD: "forward",
    Stage.BACKWARD: "backward", Stage.REDUCING: "reduction of losses", Stage.UPDATING: "optimizer step",
    Stage.EVALUATING: "evaluation", Stage.SCORING: "metrics", Stage.SAVING: "save", Stage.LEAVING: "exit",
}  # fmt: skip


_STEP, _LEFT, _STAGE, _RANK, _TIME, _PID = range(6)
_SPENT = 6
"""First of the columns with the nanoseconds spent in each stage."""
_ALLOWED = _SPENT + len(Stage)
"""First of the columns with the nanoseconds that a pause in each stage may last. 0: the first visit has not ended."""
_COLUMNS = _ALLOWED + len(Stage)


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

    @property
    def taken(self) -> int:
        """Number of steps that are taken."""
        return self.step - (Stage.LOADING <= self.stage <= Stage.UPDATING)

    def __str__(self) -> str:
        return f"at step {self.step} ({self.stage.description})" if self.step else self.stage.description


@dataclass(frozen=True)
class Beat:
    """The last beat of a rank. `pid`: its process. `allowed`: seconds that a pause in this stage may last, by the
    pauses so far; None: the rank is in this stage for the first time."""

    position: Position
    pid: int
    allowed: float | None


class Heartbeat:
    """The beats of one rank.

    `file`: created by `create`; None: only this process reads them. `row`: number of the rank on this machine.
    """

    def __init__(self, file: Path | None = None, row: int = 0, rank: int = 0):
        rows = np.zeros((1, _COLUMNS), dtype=np.int64) if file is None else _map(file, "r+")
        self._row = memoryview(rows[0 if file is None else row])  # whose items are read and written faster
        for column in range(_COLUMNS):
            self._row[column] = 0
        self._row[_RANK], self._row[_PID] = rank, os.getpid()
        self._row[_TIME] = self._begun = time.monotonic_ns()
        self._visit = (Stage.STARTING, 0, 0)
        self._longest = [0] * len(Stage)
        self.beat(Stage.STARTING)

    def beat(self, stage: Stage, step: int = 0, left: int = 0) -> None:
        """Record the position, and add the time since the last beat to that of its stage. `left`: number of
        micro-batches that remain in this step."""
        now, row, before = time.monotonic_ns(), self._row, self._visit
        pause, ended = now - row[_TIME], before[0]
        row[_SPENT + ended] += pause
        if pause > self._longest[ended]:
            self._longest[ended] = pause
            if row[_ALLOWED + ended]:
                row[_ALLOWED + ended] = max(row[_ALLOWED + ended], _LATER * pause)
        visit = self._visit = (stage, step, left)
        if visit != before and not row[_ALLOWED + ended]:
            row[_ALLOWED + ended] = max(1, _FIRST * self._longest[ended])
            self._longest[ended] = 0
        row[_STEP], row[_LEFT], row[_STAGE], row[_TIME] = step, -left, stage, now

    @property
    def seconds(self) -> dict[Stage, float]:
        """Seconds that this rank has spent in each stage, up to the last beat."""
        return {stage: self._row[_SPENT + stage] / 1e9 for stage in Stage}

    @property
    def seconds_so_far(self) -> dict[Stage, float]:
        """Seconds that this rank has spent in each stage, up to now, whatever its thread is doing. Their sum is the age
        of this object, even if a beat comes while they are read."""
        row = self._row.tolist()
        passed, stage = time.monotonic_ns() - self._begun, row[_STAGE]
        spent = dict(zip(Stage, row[_SPENT:_ALLOWED], strict=True))
        spent[Stage(stage)] = passed - sum(spent.values()) + spent[Stage(stage)]
        return {stage: max(0, of_stage) / 1e9 for stage, of_stage in spent.items()}

    @property
    def own_seconds(self) -> float:
        """Seconds in stages in which this rank waits for no other, with most strategies: data and forward."""
        return (self._row[_SPENT + Stage.LOADING] + self._row[_SPENT + Stage.FORWARD]) / 1e9

    @property
    def last(self) -> Beat:
        """The last beat of this rank."""
        return _beat(self._row.tolist())

    @property
    def position(self) -> Position:
        """The position of this rank."""
        return self.last.position


def create(file: Path, ranks: int) -> None:
    """Create the file for this many ranks."""
    np.zeros((ranks, _COLUMNS), dtype=np.int64).tofile(file)


def read(file: Path) -> list[Beat]:
    """Return the last beat of each rank of this machine that has started."""
    return [_beat(row) for row in _map(file, "r").tolist() if row[_TIME]]


def positions(file: Path) -> list[Position]:
    """Return the position of each rank of this machine that has started."""
    return [beat.position for beat in read(file)]


def have_stepped(file: Path) -> bool:
    """Return whether all ranks of this machine have completed a step since the file was created."""
    return bool((_map(file, "r")[:, _SPENT + Stage.UPDATING] > 0).all())


def behind(positions: Sequence[Position]) -> list[Position]:
    """Return the ranks that are furthest behind: the others wait for them."""
    least = min((position.progress for position in positions), default=None)
    return [position for position in positions if position.progress == least]


def _beat(row: Sequence[int]) -> Beat:
    stage = Stage(row[_STAGE])
    allowed = row[_ALLOWED + stage]
    position = Position(row[_STEP], row[_LEFT], stage, row[_RANK], row[_TIME] / 1e9)
    return Beat(position, row[_PID], allowed / 1e9 if allowed else None)


def _map(file: Path, mode: Literal["r", "r+"]) -> NDArray[np.int64]:
    mapped: NDArray[np.int64] = np.memmap(file, dtype=np.int64, mode=mode).reshape(-1, _COLUMNS)
    return mapped
