"""The watchdog of a machine's ranks, in the process that started them: it notices that they make no progress.

Time counts only while this process runs, so that neither a stopped job nor a suspended machine looks like a hang.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from launcher.distributed import heartbeat, stacks
from launcher.distributed.hangs import GONE, STOPPED, TRACED, RankState
from launcher.distributed.heartbeat import Beat, Stage
from launcher.distributed.stacks import Frame, Stack

_FIRST_TIME = 10
"""A stage that a rank enters for the first time may last this many times the least limit."""
_RARE = (Stage.STARTING, Stage.SCORING, Stage.SAVING)
"""Stages whose length varies, as with a shared disk. They may last as long as a first one, and half of the longest
limit."""
_POLL_SECONDS = 0.25
_LONGEST_POLL = 1.0
"""Seconds between two checks that count at most. If there are more, this process did not run."""
_QUIET_SECONDS = 5.0
"""Seconds in which no rank has beaten before stacks are requested."""
_LOADER, _WORKER = "/torch/utils/data/dataloader.py", "/torch/utils/data/_utils/worker.py"
_AUTOGRAD, _DEVICE_COPIES = "/torch/autograd/", "/train/copy_ahead.py"

_log = logging.getLogger(__name__)


class Watchdog:
    """Watches the ranks of this machine.

    `heartbeats`: file of their positions. `logs`: folder for their stacks. `least`: lower bound of the limit in
    seconds; None: nothing is watched. `most`: upper bound of a limit that was learned. `revive`: whether a stopped rank
    may be continued for a moment, so that it writes its stacks. `host`: of these ranks, if there are several.
    """

    def __init__(
        self, heartbeats: Path, logs: Path, least: float | None, most: float, revive: bool = False, host: str = ""
    ):
        self._file, self._logs, self._least, self._most = heartbeats, logs, least, most
        self._revive, self._host = revive, host
        self._clock, self._checked = 0.0, time.monotonic()
        self._since = dict[int, tuple[float, float]]()
        self._next = 0.0
        self._states = list[RankState]()

    def check(self) -> list[RankState]:
        """Return the states of all ranks of this machine if they hang; empty: they do not."""
        now = time.monotonic()
        if self._least is None or now - self._checked < _POLL_SECONDS:
            return self._states
        self._clock += min(now - self._checked, _LONGEST_POLL)
        self._checked = now
        if any(state.process == STOPPED for state in self._states):
            return self._states  # it may have moved while it wrote its stacks
        beats = heartbeat.read(self._file)
        if self._moved(beats):
            self._states, self._next = [], 0.0
        if not self._overdue(beats):
            return []
        if not self._states and self._clock >= self._next:
            self._states = self._examined(beats)
        return self._states

    def report_again_later(self) -> None:
        """Return no states until the ranks have been silent for twice as long."""
        self._states, self._next = [], 2 * self._clock - min(since for _, since in self._since.values())

    def _moved(self, beats: Sequence[Beat]) -> bool:
        """Record since when each rank stands still. Returns whether any has moved."""
        moved = False
        for beat in beats:
            rank, at = beat.position.rank, beat.position.time
            if rank not in self._since or self._since[rank][0] != at:
                self._since[rank], moved = (at, self._clock), True
        return moved

    def _overdue(self, beats: Sequence[Beat]) -> bool:
        """Return whether the ranks furthest behind, for which the others wait, stand still for too long."""
        behind = {position.rank for position in heartbeat.behind([beat.position for beat in beats])}
        late = [self._silence(beat) > self.limit(beat) for beat in beats if beat.position.rank in behind]
        quiet = min((self._silence(beat) for beat in beats), default=0.0)
        return bool(late) and all(late) and quiet > min(_QUIET_SECONDS, (self._least or 0.0) / 2)

    def _silence(self, beat: Beat) -> float:
        return self._clock - self._since[beat.position.rank][1]

    def limit(self, beat: Beat) -> float:
        """Return the seconds that a rank may stay where its last beat says."""
        least, stage = self._least or 0.0, beat.position.stage
        if stage is Stage.LEAVING:
            return float("inf")
        if stage in _RARE or beat.allowed is None:
            least *= _FIRST_TIME
        if stage in _RARE:
            least = max(least, self._most / 2)
        return max(least, min(beat.allowed or 0.0, self._most))

    def _examined(self, beats: Sequence[Beat]) -> list[RankState]:
        """Return the states of ranks that stand still; empty: they have moved meanwhile, compile, or are debugged."""
        # a stopped rank last: the others move on while it writes its stacks
        ordered = sorted(beats, key=lambda beat: process_status(beat.pid) == STOPPED)
        states = [self._state(beat) for beat in ordered]
        if any(state.process == STOPPED for state in states):
            return states
        if self._moved(heartbeat.read(self._file)):
            return []
        if any(state.compiles or state.process == TRACED for state in states):
            self._next = self._clock + (self._least or 0.0)
            return []
        return states

    def _state(self, beat: Beat) -> RankState:
        position, file = beat.position, stacks.path(self._logs, beat.position.rank)
        process = process_status(beat.pid)
        stack = None
        if process != TRACED and (process != STOPPED or self._revive):
            stack = stacks.request(beat.pid, file, revive=process == STOPPED)
        state = RankState(
            position.rank, position.step, position.left, position.stage, self._silence(beat), process, host=self._host
        )
        return state if stack is None else with_stack(state, stack, beat.pid, file)


def with_stack(state: RankState, stack: Stack, pid: int, file: Path) -> RankState:
    """Return the state of a rank with what its stack shows. `pid`: of its process. `file`: of its stacks."""
    innermost = stack.frames[0].file if stack.frames else ""
    culprit, text = stack.culprit, stack.text
    opaque = state.stage is Stage.BACKWARD and _AUTOGRAD in innermost
    opaque = opaque or (culprit is not None and culprit.file.endswith(_DEVICE_COPIES))
    if any(frame.file.endswith(_LOADER) for frame in stack.frames):
        for child in stacks.request_children(pid, file):
            if (busy := _of_worker(child)) is not None:
                culprit, text = busy, f"{text}\n{child.text}"
                break
    return RankState(
        state.rank, state.step, state.left, state.stage, state.seconds, state.process, str(culprit or ""),
        stack.collective, opaque, stack.compiles, text, state.host,
    )  # fmt: skip


def _of_worker(stack: Stack) -> Frame | None:
    """Return the innermost call of own code in a process that loads data; None: it is idle."""
    for frame in stack.frames:
        if frame.file.endswith(_WORKER):
            return None
        if frame.own:
            return frame
    return None


def process_status(pid: int) -> str:
    """Return the state of a process, as psutil names it; GONE: it has ended."""
    try:
        return str(psutil.Process(pid).status())
    except psutil.Error:
        return GONE
