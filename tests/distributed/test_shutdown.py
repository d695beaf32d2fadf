"""What a rank does when whoever started it dies, or is dead already."""

import subprocess
import sys

import psutil
import pytest

RANK = """
import os, signal, sys
from launcher.distributed.signals import PARENT_DIED
from launcher.distributed.shutdown import Stop

starter, trains, dies = int(sys.argv[1]), *(word == "True" for word in sys.argv[2:])
stop = Stop()
stop.trains = trains
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


def test_a_rank_that_trains_makes_way(dead):
    assert rank(1, trains=True, dies=True).stdout == "MAKE_WAY\n"
    assert rank(dead, trains=True, dies=False).stdout == "MAKE_WAY\n"


def test_one_that_waits_for_others_or_only_looks_ends_at_once(dead):
    """The others may never come: it would wait for half an hour."""
    for done in (rank(1, trains=False, dies=True), rank(dead, trains=False, dies=False)):
        assert (done.returncode, done.stdout) == (75, "")


def test_one_whose_starter_lives_goes_on():
    assert rank(1, trains=False, dies=False).stdout == "NONE\n"
