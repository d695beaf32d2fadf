"""Signals that ask a process to stop, and the effect that each has at a given time.

Signal handlers belong to the process, so this module keeps one record for it. After `listen`, every signal is recorded.
Before there are ranks, inside `interrupting`, a signal ends the work. Inside `forwarding`, it is forwarded to the
ranks, and a second one ends them at once. Outside of both, as after the end of the ranks, it is only recorded. After
`ignore`, just before the exit, it has no effect. A signal that was ignored when the process began, as under nohup,
stays ignored. This module imports the standard library only, because the launcher runs it first.
"""

import ctypes
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import NoReturn

from launcher.distributed import output_streams
from launcher.distributed.exit_codes import STOPPED


class StopReason(IntEnum):
    """Why a run ends early. If there are several reasons, the greatest counts."""

    NONE = 0
    REGROUP = 1
    """Save and end, because the agents start the ranks again with a node that has joined."""
    MAKE_WAY = 2
    """Save, end, and start again if that is possible."""
    STOP = 3
    """Save, end, and do not start again."""
    REPLACED = 4
    """A newer start of the run writes into its folder: nothing may be saved any more."""


SIGNALS: Mapping[signal.Signals, StopReason] = {
    signal.SIGUSR1: StopReason.MAKE_WAY,
    signal.SIGHUP: StopReason.MAKE_WAY,
    signal.SIGTERM: StopReason.STOP,
    signal.SIGINT: StopReason.STOP,
}
PARENT_DIED = signal.SIGUSR2
"""Signal that the kernel sends to a rank whose parent has died. nohup does not ignore it."""
_PR_SET_PDEATHSIG = 1
_HANGUP_WINDOW = 1.0
"""Seconds within which a second SIGHUP counts as the first, because a closing terminal sends it twice."""
_CLEAN_UP_SECONDS = 1.0
"""Seconds for cleaning up after the first signal, before another one ends the process."""


class StopRequested(BaseException):
    """A signal asked this process to stop while there were no ranks.

    It is no Exception, which libraries may swallow, and no KeyboardInterrupt, for which the command line library has
    its own exit code.
    """

    def __str__(self) -> str:
        return "stopped before training began: start it again and it goes on where it was"


class ForcedStop(BaseException):
    """A second signal asked for the same stop: end the ranks at once."""


class _Record:
    """The signals received by this process, and the current reaction to them."""

    def __init__(self) -> None:
        self.reason = StopReason.NONE
        self.first_signal = 0.0
        self.first_hangup: float | None = None
        self.clean_up: Callable[[], None] | None = None
        self.forward: Callable[[StopReason], None] | None = None
        self.second_forces = False

    def receive(self, number: int, frame: object) -> None:
        """Handle a signal. Raises StopRequested inside `interrupting` and ForcedStop inside `forwarding`."""
        name = signal.Signals(number)
        if name is signal.SIGHUP:
            leave_terminal()
        is_first, is_repeated = self.reason is StopReason.NONE, self._repeats(name)
        if name is signal.SIGHUP and self.first_hangup is None:
            self.first_hangup = time.monotonic()
        if is_first:
            self.first_signal = time.monotonic()
        self.reason = max(self.reason, SIGNALS[name])
        if self.clean_up is not None:
            if is_first:
                raise StopRequested
            if time.monotonic() - self.first_signal > _CLEAN_UP_SECONDS:
                self._exit_now(self.clean_up)
        if self.forward is not None:
            if is_repeated and self.second_forces:
                self.second_forces = False  # a third one must not interrupt the end
                raise ForcedStop
            self.forward(self.reason)

    def _repeats(self, name: signal.Signals) -> bool:
        """Return whether this signal asks for the same stop again.

        The first SIGHUP does not, even after another signal: a closing terminal, or a service manager, sends it too.
        """
        if name is signal.SIGHUP and (
            self.first_hangup is None or time.monotonic() - self.first_hangup < _HANGUP_WINDOW
        ):
            return False
        return self.reason is SIGNALS[name]

    def _exit_now(self, clean_up: Callable[[], None]) -> NoReturn:
        with suppress(Exception):
            clean_up()
        say(str(StopRequested()))
        os._exit(STOPPED)


_record = _Record()


def listen(even_ignored: Collection[signal.Signals] = ()) -> None:
    """Record signals from here on, except those that were ignored when this process began.

    `even_ignored`: signals that a parent ignored only until this process can handle them.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN or number in even_ignored:
            signal.signal(number, _record.receive)


def requested() -> StopReason:
    """Return the stop that the signals received so far ask for."""
    return _record.reason


def force() -> None:
    """Act as if STOP had been asked for twice. May be called on any thread.

    Only one signal is sent, because two at once may arrive as one.
    """
    _record.reason = max(_record.reason, StopReason.STOP)
    os.kill(os.getpid(), signal.SIGTERM)


def ignore() -> None:
    """Ignore signals in the last part of the exit, in which Python itself would be killed by one."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def signal_on_parent_death(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent dies. On other systems than Linux nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))


def say(text: str) -> None:
    """Write a line to standard error. Signal handlers may call it. An error, such as a closed terminal, is ignored."""
    with suppress(OSError):
        os.write(2, f"{output_streams.erasure(2)}{text}\n".encode())


def leave_terminal() -> bool:
    """Redirect standard output and error to the null device if their terminal is gone. Returns whether one is."""
    closed = [number for number in (1, 2) if _is_hung_up(number)]
    for number in closed:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
    return bool(closed)


def _is_hung_up(number: int) -> bool:
    with suppress(OSError):
        if stat.S_ISCHR(os.fstat(number).st_mode):
            poll = select.poll()
            poll.register(number, 0)
            return any(event & select.POLLHUP for _, event in poll.poll(0))
    return False


@contextmanager
def interrupting(clean_up: Callable[[], None]) -> Iterator[None]:
    """Raise StopRequested in the block on a signal; if one came earlier, at the beginning of the block.

    `clean_up`: if ending takes too long and another signal arrives, it is called before the process exits.
    """
    with _listening():
        _record.clean_up = clean_up
        try:
            _raise_if_requested()
            yield
            _raise_if_requested()  # an exception that a handler raised in a destructor is lost
        finally:
            _record.clean_up = None


@contextmanager
def forwarding(send: Callable[[StopReason], None], second_forces: bool = True) -> Iterator[None]:
    """Call `send` on each signal in the block; if one came earlier, at the beginning of the block.

    `second_forces`: whether a second signal raises ForcedStop.
    """
    with _listening():
        _record.forward, _record.second_forces = send, second_forces
        try:
            if _record.reason is not StopReason.NONE:
                send(_record.reason)
            yield
        finally:
            _record.forward = None


def announce(where: str, second_forces: bool = True, error: str = "") -> None:
    """Report on standard error that a stop was forwarded to `where` (all ranks, all hosts). Signal handlers call it."""
    again = " (once more ends them at once)" if second_forces else ""
    say(f"{error or f'stopping: all {where} leave at the end of this step'}{again}")


@contextmanager
def blocked_in_children() -> Iterator[None]:
    """Block the signals in processes that this thread starts in the block, until they can handle and unblock them.

    A signal may reach them earlier, because Slurm or a terminal sends it to a whole process group.
    """
    from multiprocessing import resource_tracker

    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()  # multiprocessing's own helper, whose start unblocks some of them here
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _raise_if_requested() -> None:
    if _record.reason is not StopReason.NONE:
        raise StopRequested


@contextmanager
def _listening() -> Iterator[None]:
    """Handle signals as `listen` does within the block, then restore the previous handlers."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
