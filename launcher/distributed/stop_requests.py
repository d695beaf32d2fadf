"""Stop requests to a rank, and blocking calls that they can interrupt.

A signal, a file that the launcher writes, the file STOP of the run folder, the deadline, or the loss of its lease asks
a rank to stop. All ranks agree
at the end of a step and leave together. USR1, the deadline and the death of the parent ask to save, leave, and start
again if that is possible (MAKE_WAY). TERM and INT ask to save, leave, and not start again (STOP).
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

from launcher.config import env_vars
from launcher.config.atomic_files import write
from launcher.distributed import signals
from launcher.distributed.exit_codes import STOPPED
from launcher.distributed.signals import PARENT_DIED, SIGNALS, StopReason
from launcher.storage import stop_file
from launcher.storage.lease import Lease
from launcher.storage.run_dir import RunDir

T = TypeVar("T")
STOP_FILE = "stop"
"""Name of the stop file in the folder that a launcher shares with its ranks."""
_POLL_SECONDS = 0.1
_LOOK_SECONDS = 1.0
"""Seconds between two looks at the run folder, which may be on a disk that many nodes share."""


class StoppedBeforeTraining(Exception):
    """A stop was requested before training began."""


def write_stop_file(file: Path, reason: StopReason) -> None:
    """Ask the ranks of this machine to stop, by a file that they read at each step. Raises OSError."""
    write(file, reason.name, flushed=False)


class StopMonitor:
    """The stop requests that reach one rank, and the stop that all ranks have agreed on.

    `file`: the stop file, read at each step, since a launcher cannot know whether a rank can handle a signal yet.
    `deadline`: seconds since the epoch. The clock is read only here, so that a later change of it moves no deadline.
    """

    def __init__(self, file: Path | None = None, deadline: float | None = None):
        self._file = file
        self._deadline = None if deadline is None else time.monotonic() + deadline - time.time()
        self.received = StopReason.NONE
        """What signals have asked of this rank."""
        self.agreed = StopReason.NONE
        """What all ranks have agreed on."""
        self.training = False
        """Whether all ranks have joined, and will agree on when to leave."""
        self.lease: Lease | None = None
        """The right to write into the run folder, of the rank that writes."""
        self.run: RunDir | None = None
        """The run folder, of the rank that looks for the file STOP."""
        self._looked = -_LOOK_SECONDS

    @classmethod
    def of(cls, file: Path | None = None, environment: Mapping[str, str] = os.environ) -> "StopMonitor":
        """Return a monitor with the deadline that the batch script has set."""
        deadline = environment.get(env_vars.DEADLINE, "")
        return cls(file, float(deadline) if deadline.isdigit() else None)

    def listen(self, launcher: int | None = None) -> None:
        """Handle the signals and, if there is a launcher, the death of the parent.

        `launcher`: process id of the launcher, which may be dead by now.
        """
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._receive)
        if launcher is not None:
            signal.signal(PARENT_DIED, self._receive)
            signals.signal_on_parent_death(PARENT_DIED)
            if not psutil.pid_exists(launcher):
                self._receive(PARENT_DIED, None)

    def requested(self) -> StopReason:
        """Return the stop that this rank has been asked for so far."""
        lease_lost = self.lease is not None and self.lease.lost
        return max(
            self.received,
            self._from_file(),
            self._from_run_folder(),
            StopReason.MAKE_WAY if self.seconds_left() == 0 else StopReason.NONE,
            StopReason.REPLACED if lease_lost else StopReason.NONE,
        )

    def seconds_left(self) -> float | None:
        """Return the seconds until the deadline, 0 after it; None: there is no deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def agree(self, reason: StopReason) -> None:
        """Record that all ranks leave for this reason."""
        self.agreed = reason

    def _from_file(self) -> StopReason:
        if self._file is None:
            return StopReason.NONE
        with suppress(OSError, KeyError):
            return StopReason[self._file.read_text()]
        return StopReason.NONE

    def _from_run_folder(self) -> StopReason:
        """Return STOP if the run folder has the file STOP. It is looked at once a second at the most."""
        now = time.monotonic()
        if self.run is not None and now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            if stop_file.exists(self.run):
                self.received, self.run = max(self.received, StopReason.STOP), None
        return self.received

    def _receive(self, number: int, frame: object) -> None:
        if number == PARENT_DIED and not self.training:  # the other ranks may never join, and there is nothing to save
            os._exit(STOPPED)
        self.received = max(self.received, SIGNALS.get(signal.Signals(number), StopReason.MAKE_WAY))


def after(seconds: float) -> Callable[[], bool]:
    """Return a function that returns whether this many seconds have passed since now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def interruptible(
    call: Callable[[], T],
    should_stop: Callable[[], bool],
    grace: float = 0.0,
    overdue: Callable[[], bool] = lambda: False,
) -> T:
    """Run `call` on another thread, and return its result or raise its error.

    The call may block outside of Python, where no signal is handled. Raises StoppedBeforeTraining if `should_stop`
    becomes true before it ends, and TimeoutError if `overdue` does. `grace`: seconds in which the call may end after a
    stop request. If it does not end, its thread ends with the process.
    """
    results, errors = list[T](), list[BaseException]()

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="interruptible", daemon=True)
    thread.start()
    leave_at: float | None = None
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        if thread.is_alive() and overdue():
            raise TimeoutError
        if leave_at is None and should_stop():
            leave_at = time.monotonic() + grace
        if leave_at is not None and time.monotonic() >= leave_at and thread.is_alive():
            raise StoppedBeforeTraining
    if errors and (leave_at is not None or should_stop()):
        raise StoppedBeforeTraining from errors[0]
    if errors:
        raise errors[0]
    return results[0]
