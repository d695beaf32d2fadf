"""The signals that ask a process to leave, and what the launcher does with them at each time of its life.

Handlers are of a process, so this module keeps one record for it. After `listen` a signal is recorded and never lost;
`interrupting` has it end what runs before there are ranks, `passing_on` hands it to the ranks. Outside of both, and so
from the end of the ranks to the exit, a signal changes nothing any more. One that was ignored when the process began,
as under nohup, stays ignored. Imports nothing but the standard library: it is the first thing that the launcher does.
"""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum


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
"""Seconds in which HUP counts as part of the signal before it: a terminal that closes sends it twice, a service manager
right after TERM."""


class StopRequested(BaseException):
    """A signal asked this process to leave while there were no ranks. (No Exception, which libraries may swallow, and
    no KeyboardInterrupt, which the command line library turns into an exit code of its own.)"""

    def __init__(self, reason: Reason):
        super().__init__(reason)
        self.reason = reason


class ForcedStop(BaseException):
    """The same was asked for twice: the ranks are to end at once."""


class _Record:
    """What this process has been asked for, and what it does about it."""

    def __init__(self) -> None:
        self.reason = Reason.NONE
        self.first = 0.0
        self.interrupts = False
        self.pass_on: Callable[[Reason], None] | None = None
        self.forces = False

    def receive(self, number: int, frame: object) -> None:
        name = signal.Signals(number)
        first, again = self.reason is Reason.NONE, self._again(name)
        if first:
            self.first = time.monotonic()
        self.reason = max(self.reason, SIGNALS[name])
        if self.interrupts:
            if first:
                raise StopRequested(self.reason)
            if again:  # cleaning up takes too long
                os._exit(STOPPED)
        if self.pass_on is not None:
            if again and self.forces:
                self.forces = False  # a third one must not interrupt the end
                raise ForcedStop
            self.pass_on(self.reason)

    def _again(self, name: signal.Signals) -> bool:
        """Whether this asks for what was asked for before."""
        echo = name is signal.SIGHUP and time.monotonic() - self.first < _ONE_HANGUP
        return self.reason is SIGNALS[name] and not echo


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


@contextmanager
def interrupting() -> Iterator[None]:
    """Have a signal raise StopRequested, also one that came before."""
    listen()
    _record.interrupts = True
    try:
        if _record.reason is not Reason.NONE:
            raise StopRequested(_record.reason)
        yield
    finally:
        _record.interrupts = False


@contextmanager
def passing_on(to: Callable[[Reason], None], forces: bool = True) -> Iterator[None]:
    """Have a signal call `to`, also one that came before. `forces`: a second one raises ForcedStop."""
    listen()
    _record.pass_on, _record.forces = to, forces
    try:
        if _record.reason is not Reason.NONE:
            to(_record.reason)
        yield
    finally:
        _record.pass_on = None
