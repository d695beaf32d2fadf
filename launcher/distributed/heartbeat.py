"""How far each rank of a machine is, in a file that the ranks and their launcher map into memory: a rank that stands
still can say nothing, and its launcher sees where it stands. A beat costs a few writes to memory."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray


class Stage(IntEnum):
    """Within a step, in the order in which a rank goes through them."""

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


_DOING = {
    Stage.STARTING: "starting", Stage.LOADING: "waiting for data", Stage.AGREEING: "waiting for the other ranks",
    Stage.FORWARD: "in the forward pass", Stage.BACKWARD: "in the backward pass", Stage.REDUCING: "adding up losses",
    Stage.UPDATING: "updating the parameters", Stage.EVALUATING: "evaluating", Stage.SAVING: "saving a checkpoint",
    Stage.LEAVING: "leaving",
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Position:
    """Where a rank is: less is less far. `left`: minus the number of micro-batches that follow in its step. `time`: of
    the beat, in seconds of the machine's monotonic clock."""

    step: int
    left: int
    stage: Stage
    rank: int
    time: float

    @property
    def place(self) -> tuple[int, int, Stage]:
        """What is compared between ranks."""
        return self.step, self.left, self.stage

    def __str__(self) -> str:
        return f"at step {self.step} ({_DOING[self.stage]})" if self.step else _DOING[self.stage]


class Heartbeat:
    """The beats of one rank. `file`: as `create` made it; without one they go nowhere. `row`: its number among the
    ranks of this machine."""

    def __init__(self, file: Path | None = None, row: int = 0, rank: int = 0):
        rows = np.zeros((1, 5), dtype=np.int64) if file is None else _map(file, "r+")
        self._row = rows[0 if file is None else row]
        self._row[3] = rank
        self.beat(Stage.STARTING)

    def beat(self, stage: Stage, step: int = 0, left: int = 0) -> None:
        """`left`: how many micro-batches follow in this step."""
        self._row[:3] = step, -left, stage
        self._row[4] = time.monotonic_ns()


def create(file: Path, ranks: int) -> None:
    """Make the file for so many ranks of this machine."""
    np.zeros((ranks, 5), dtype=np.int64).tofile(file)


def read(file: Path) -> list[Position]:
    """Where each rank of this machine is that has begun."""
    rows = _map(file, "r").tolist()
    return [Position(row[0], row[1], Stage(row[2]), row[3], row[4] / 1e9) for row in rows if row[4]]


def behind(positions: Sequence[Position]) -> list[Position]:
    """The ranks that are the least far, for which the others wait."""
    least = min((position.place for position in positions), default=None)
    return [position for position in positions if position.place == least]


def _map(file: Path, mode: Literal["r", "r+"]) -> NDArray[np.int64]:
    mapped: NDArray[np.int64] = np.memmap(file, dtype=np.int64, mode=mode).reshape(-1, 5)
    return mapped
