"""Stop requests that reach a rank, and calls that they interrupt."""

import subprocess
import sys
import threading
import time

import psutil
import pytest

from launcher.distributed.signals import StopReason
from launcher.distributed.stop_requests import StopMonitor, StoppedBeforeTraining, interruptible

RANK = """
import os, signal, sys
from launcher.distributed.signals import PARENT_DIED
from launcher.distributed.stop_requests import StopMonitor

starter, trains, dies = int(sys.argv[1]), *(word == "True" for word in sys.argv[2:])
stop = StopMonitor()
stop.training = trains
stop.listen(starter)
if dies:
    signal.raise_signal(PARENT_DIED)
print(stop.requested().name)
"""


def rank(starter, trains, dies):
    words = [sys.executable, "-c", RANK, starter, trains, dies]
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = psutil.Popen(["true"])
    process.wait()
    return process.pid


def test_a_training_rank_makes_way_when_its_parent_dies(dead):
    assert rank(1, trains=True, dies=True).stdout == "MAKE_WAY\n"
    assert rank(dead, trains=True, dies=False).stdout == "MAKE_WAY\n"


def test_a_rank_that_does_not_train_ends_at_once(dead):
    """The others may never come: it would wait for half an hour."""
    for done in (rank(1, trains=False, dies=True), rank(dead, trains=False, dies=False)):
        assert (done.returncode, done.stdout) == (75, "")


def test_a_rank_whose_parent_lives_continues():
    assert rank(1, trains=False, dies=False).stdout == "NONE\n"


def test_the_result_or_error_of_the_call_is_passed_on():
    assert interruptible(lambda: 3, lambda: False) == 3
    with pytest.raises(ValueError, match=r"^no$"):
        interruptible(lambda: (_ for _ in ()).throw(ValueError("no")), lambda: False)


def test_a_blocked_call_is_left_after_a_stop_request():
    never = threading.Event()
    with pytest.raises(StoppedBeforeTraining):
        interruptible(never.wait, lambda: True)
    never.set()


def test_the_call_may_end_within_the_grace():
    requested = threading.Event()

    def should_stop():
        requested.set()
        return True

    assert interruptible(lambda: requested.wait(30), should_stop, grace=30)


def test_an_error_after_a_stop_request_counts_as_stopped():
    requested = threading.Event()

    def lose():
        requested.wait(30)
        raise RuntimeError("connection closed by peer")

    def should_stop():
        requested.set()
        return True

    with pytest.raises(StoppedBeforeTraining):
        interruptible(lose, should_stop, grace=30)


def test_an_immediate_error_after_a_stop_request_counts_as_stopped():
    def lost():
        raise RuntimeError("connection closed by peer")

    for _ in range(100):
        with pytest.raises(StoppedBeforeTraining):
            interruptible(lost, lambda: True)


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_is_set_moves_no_deadline(monkeypatch, jump):
    stop = StopMonitor(deadline=time.time() + 100)
    now, monotonic = time.time(), time.monotonic()
    monkeypatch.setattr(time, "time", lambda: now + jump)
    assert stop.requested() is StopReason.NONE
    monkeypatch.setattr(time, "monotonic", lambda: monotonic + 101)
    assert stop.requested() is StopReason.MAKE_WAY
