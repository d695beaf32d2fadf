"""The one record of signals of a process, with signals to this very process."""

import signal
import subprocess
import sys

import pytest

from launcher.distributed import signals
from launcher.distributed.signals import SIGNALS, ForcedStop, StopReason, StopRequested

TERM, INT, HUP, USR1 = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1


@pytest.fixture(autouse=True)
def record(monkeypatch):
    """A new record; handlers as they were before."""
    monkeypatch.setattr(signals, "_record", signals._Record())
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield signals._record
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def later(monkeypatch):
    """Lets so many seconds go by."""
    now = [1000.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


@pytest.mark.parametrize(
    ("numbers", "heard", "forced"),
    [
        ([TERM], [StopReason.STOP], False),
        ([USR1], [StopReason.MAKE_WAY], False),
        ([TERM, TERM], [StopReason.STOP], True),
        ([INT, TERM], [StopReason.STOP], True),
        ([USR1, USR1], [StopReason.MAKE_WAY], True),
        ([USR1, TERM], [StopReason.MAKE_WAY, StopReason.STOP], False),
        ([TERM, USR1], [StopReason.STOP, StopReason.STOP], False),
        ([USR1, TERM, INT], [StopReason.MAKE_WAY, StopReason.STOP], True),
        ([HUP, HUP], [StopReason.MAKE_WAY, StopReason.MAKE_WAY], False),
        ([TERM, HUP], [StopReason.STOP, StopReason.STOP], False),
        ([HUP, USR1], [StopReason.MAKE_WAY], True),
    ],
)
def test_the_first_signal_is_forwarded_and_a_second_of_its_meaning_forces(later, numbers, heard, forced):
    passed = []

    def take():
        with signals.forwarding(passed.append):
            for number in numbers:
                signal.raise_signal(number)

    if forced:
        with pytest.raises(ForcedStop):
            take()
    else:
        take()
    assert passed == heard


def test_a_later_hangup_counts_as_a_second_signal(later):
    with pytest.raises(ForcedStop), signals.forwarding(lambda reason: None):
        signal.raise_signal(HUP)
        later(1.5)
        signal.raise_signal(HUP)


def test_a_terminal_that_closes_forces_nothing_after_another_signal(later):
    passed = []
    with signals.forwarding(passed.append):
        signal.raise_signal(USR1)
        later(100)
        signal.raise_signal(HUP)
    assert passed == [StopReason.MAKE_WAY] * 2


def test_a_third_signal_does_not_interrupt_the_end():
    with pytest.raises(ForcedStop), signals.forwarding(lambda reason: None):
        try:
            signal.raise_signal(TERM)
            signal.raise_signal(TERM)
        finally:
            signal.raise_signal(TERM)


def test_a_second_signal_forces_nothing_where_it_is_usual():
    passed = []
    with signals.forwarding(passed.append, second_forces=False):
        signal.raise_signal(TERM)
        signal.raise_signal(TERM)
    assert passed == [StopReason.STOP, StopReason.STOP]


def test_force_ends_an_agent_whatever_it_has_received():
    for before in ([], [USR1]):
        with pytest.raises(ForcedStop), signals.forwarding(lambda reason: None):
            for number in before:
                signal.raise_signal(number)
            signals.force()
            pytest.fail("not forced")


def test_an_earlier_signal_is_forwarded():
    signals.listen()
    signal.raise_signal(USR1)
    passed = []
    with signals.forwarding(passed.append):
        assert passed == [StopReason.MAKE_WAY]


def test_signals_outside_of_a_block_are_only_recorded():
    signals.listen()
    passed = []
    with signals.forwarding(passed.append):
        pass
    for _ in range(3):
        signal.raise_signal(TERM)
    assert passed == []
    assert signals.requested() is StopReason.STOP


def never():
    raise AssertionError("nothing is to be done at once")


def test_an_earlier_signal_interrupts():
    signals.listen()
    signal.raise_signal(TERM)
    with pytest.raises(StopRequested), signals.interrupting(never):
        never()


@pytest.mark.parametrize("second", [TERM, HUP, USR1])
def test_a_signal_interrupts_and_a_second_leaves_time_for_cleaning_up(second):
    cleaned = []
    with pytest.raises(StopRequested), signals.interrupting(never):
        try:
            signal.raise_signal(TERM)
            never()
        finally:
            signal.raise_signal(second)
            cleaned.append(True)
    assert cleaned


class Swallows:
    """Python reports an exception of a destructor, and goes on."""

    def __del__(self):
        signal.raise_signal(TERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_a_destructor_swallows_interrupts_at_the_end():
    with pytest.raises(StopRequested), signals.interrupting(never):
        Swallows()


END = """
import signal
from launcher.distributed import signals
with signals.interrupting(lambda: print("cleaned", flush=True)):
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:  # which takes long
        signals._record.first_signal -= 2
        signal.raise_signal(signal.SIGTERM)
        print("never")
"""


def test_a_later_signal_ends_a_process_that_cleans_up_for_too_long():
    done = subprocess.run([sys.executable, "-c", END], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (75, "cleaned\n")
    assert done.stderr.startswith("stopped before training began")


def test_ignored_signals_stay_ignored():
    signal.signal(HUP, signal.SIG_IGN)
    with signals.forwarding(lambda reason: pytest.fail("heard")):
        signal.raise_signal(HUP)
    assert signal.getsignal(HUP) is signal.SIG_IGN


def test_signals_that_a_parent_ignored_for_a_while_are_recorded():
    signal.signal(USR1, signal.SIG_IGN)
    signals.listen(even_ignored=[USR1])
    signal.raise_signal(USR1)
    assert signals.requested() is StopReason.MAKE_WAY


def test_handlers_are_restored_after_a_block():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with signals.forwarding(lambda reason: None):
        assert signal.getsignal(TERM) == signals._record.receive
    with signals.interrupting(never):
        assert signal.getsignal(TERM) == signals._record.receive
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


EXIT = """
import os, signal
from launcher.distributed import signals

class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), numbers=tuple(signals.SIGNALS), write=os.write):
        for number in numbers:
            kill(pid, number)
        write(1, b"lived")

_last = Last()
signals.listen()
signals.ignore()
"""


def test_no_signal_ends_a_process_that_is_exiting():
    """Python puts back the default of every handler long before it has taken its modules apart."""
    done = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "lived", "")


def test_a_terminal_that_is_gone_is_no_error(monkeypatch):
    def gone(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(signals.os, "write", gone)
    signals.say("stopping")
