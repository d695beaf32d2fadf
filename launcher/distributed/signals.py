"""The signals that ask a process to leave, and what the launcher does with them at each time of its life.

Handlers are of a process, so this module keeps one record for it. After `listen` a signal is recorded and never lost;
`interrupting` has it end what runs before there are ranks, `passing_on` hands it to the ranks. Outside of both, and so
from the end of the ranks to `ignore`, just before the exit, a signal changes nothing any more. One that was ignored
when the process began, as under nohup, stays ignored. Imports nothing but the standard library: it is the first thing
that the launcher does.
"""

import os
import select
import signal
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import NoReturn


class Reason(IntEnum):
    """Why a run leaves before its end; of several the greatest counts."""

    NONE = 0
    MAKE_WAY = 1
    STOP = 2
    REPLACED = 3
    """A newer start of the run writes into its folder: nothing may be saved any more."""


SIGNALS: Mapping[signal.Signals, Reason] = {
    signal.SIGUSR1: Reason.MAKE_WAY,
    signal.SIGHUP: Reason.MAKE_WAY,
    signal.SIGTERM: Reason.STOP,
    signal.SIGINT: Reason.STOP,
}
PARENT_DIED = signal.SIGUSR2
"""What the kernel sends to a rank whose starter has died: a signal that nohup does not have ignored."""
STOPPED = 75
"""The exit code of whoever left because it was asked to."""
_ONE_HANGUP = 1.0
"""Seconds in which a second HUP counts as part of the first: a terminal that closes sends it twice."""
_CLEAN_UP = 1.0
"""Seconds that cleaning up gets after the first signal, before another one ends the process."""


class StopRequested(BaseException):
    """A signal asked this process to leave while there were no ranks. (No Exception, which libraries may swallow, and
    no KeyboardInterrupt, which the command line library turns into an exit code of its own.)"""

    def __str__(self) -> str:
        return "stopped before training began: start it again and it goes on where it was"


class ForcedStop(BaseException):
    """The same was asked for twice: the ranks are to end at once."""


class _Record:
    """What this process has been asked for, and what it does about it."""

    def __init__(self) -> None:
        self.reason = Reason.NONE
        self.first = 0.0
        self.hung_up: float | None = None
        self.at_once: Callable[[], None] | None = None
        self.pass_on: Callable[[Reason], None] | None = None
        self.forces = False

    def receive(self, number: int, frame: object) -> None:
        name = signal.Signals(number)
        if name is signal.SIGHUP:
            leave_terminal()
        first, again = self.reason is Reason.NONE, self._again(name)
        if name is signal.SIGHUP and self.hung_up is None:
            self.hung_up = time.monotonic()
        if first:
            self.first = time.monotonic()
        self.reason = max(self.reason, SIGNALS[name])
        if self.at_once is not None:
            if first:
                raise StopRequested
            if time.monotonic() - self.first > _CLEAN_UP:
                self._end(self.at_once)
        if self.pass_on is not None:
            if again and self.forces:
                self.forces = False  # a third one must not interrupt the end
                raise ForcedStop
            self.pass_on(self.reason)

    def _again(self, name: signal.Signals) -> bool:
        """Whether this asks for what was asked for before. The HUP of a terminal that closes, or of a service manager,
        does not where another signal came first."""
        if name is signal.SIGHUP and (self.hung_up is None or time.monotonic() - self.hung_up < _ONE_HANGUP):
            return False
        return self.reason is SIGNALS[name]

    def _end(self, at_once: Callable[[], None]) -> NoReturn:
        with suppress(Exception):
            at_once()
        say(str(StopRequested()))
        os._exit(STOPPED)


_record = _Record()


def listen(even_ignored: Collection[signal.Signals] = ()) -> None:
    """Record signals from here on, but those that were ignored when this process began. `even_ignored`: those that a
    starter has ignored only until this process can take them."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN or number in even_ignored:
            signal.signal(number, _record.receive)


def requested() -> Reason:
    """What has been asked for by now."""
    return _record.reason


def force() -> None:
    """From any thread: as if STOP had been asked for twice. Two signals at once may be taken for one."""
    _record.reason = max(_record.reason, Reason.STOP)
    os.kill(os.getpid(), signal.SIGTERM)


def ignore() -> None:
    """Nothing is left that a signal could end: Python itself would die of one in the last part of its exit."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def say(text: str) -> None:
    """Write a line to standard error, from a handler too. The terminal may be gone, whose end is one of the signals."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())


def leave_terminal() -> bool:
    """Send what this process prints to nowhere, where it goes to a terminal that is gone. Returns whether one is."""
    gone = [number for number in (1, 2) if _hung_up(number)]
    for number in gone:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
    return bool(gone)


def _hung_up(number: int) -> bool:
    with suppress(OSError):
        if stat.S_ISCHR(os.fstat(number).st_mode):
            poll = select.poll()
            poll.register(number, 0)
            return any(event & select.POLLHUP for _, event in poll.poll(0))
    return False


@contextmanager
def interrupting(at_once: Callable[[], None]) -> Iterator[None]:
    """Have a signal raise StopRequested, also one that came before. `at_once`: what is to be done before the process
    ends, where a later signal finds that it takes too long."""
    with _listening():
        _record.at_once = at_once
        try:
            _heed()
            yield
            _heed()  # an exception that is raised within a destructor gets lost
        finally:
            _record.at_once = None


@contextmanager
def passing_on(to: Callable[[Reason], None], forces: bool = True) -> Iterator[None]:
    """Have a signal call `to`, also one that came before. `forces`: a second one raises ForcedStop."""
    with _listening():
        _record.pass_on, _record.forces = to, forces
        try:
            if _record.reason is not Reason.NONE:
                to(_record.reason)
            yield
        finally:
            _record.pass_on = None


@contextmanager
def waiting_in_children() -> Iterator[None]:
    """Have the signals blocked in processes that this thread starts meanwhile, until they can take them and unblock
    them: a signal may be for all processes of a group, as from Slurm or a terminal."""
    from multiprocessing import resource_tracker

    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()  # multiprocessing's own helper, whose start unblocks some of them here
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _heed() -> None:
    if _record.reason is not Reason.NONE:
        raise StopRequested


@contextmanager
def _listening() -> Iterator[None]:
    """Listen for a while, in a process that did not before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
