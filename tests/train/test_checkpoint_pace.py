"""When a checkpoint is due by the clock, and how the interval of `every: auto` follows from what saves cost."""

from unittest.mock import patch

import pytest

from launcher.config.training import Checkpoint
from launcher.plan import checkpoint_interval
from launcher.train import checkpoint_pace
from launcher.train.checkpoint_pace import CheckpointPace


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock():
    with patch.object(checkpoint_pace, "time", Clock()) as clock:
        yield clock


def due(pace, clock, seconds):
    clock.now = 1000.0 + seconds
    return pace.due()


@pytest.mark.parametrize(
    ("every", "seconds"), [("90s", 90), ("10m", 600), ("continuous", 0), ("auto", checkpoint_pace.FIRST_SECONDS)]
)
def test_a_save_is_due_after_the_interval(clock, every, seconds):
    pace = CheckpointPace(Checkpoint(every=every), 1e6, since=1000.0)
    assert not due(pace, clock, seconds - 0.1) and due(pace, clock, seconds)


@pytest.mark.parametrize("every", [None, 20])
def test_by_the_clock_none_is_due_in_a_run_that_saves_by_steps(clock, every):
    pace = CheckpointPace(Checkpoint(every=every), 1e6, since=1000.0)
    assert not due(pace, clock, 1e9)
    pace.postponed()
    assert pace.due(), "but one that could not begin is"


def test_one_that_failed_is_due_again_soon_and_not_before(clock):
    pace = CheckpointPace(Checkpoint(every="90s"), 1e6, since=1000.0)
    pace.failed()
    assert not due(pace, clock, 59) and due(pace, clock, checkpoint_pace.RETRY_SECONDS)
    pace.begun()
    assert not pace.due()


def test_the_automatic_interval_is_that_of_the_formula_and_never_shorter_than_a_save():
    pace = CheckpointPace(Checkpoint(every="auto"), 3600 * 100.0)
    note = pace.complete(blocked=8.0, seconds=20.0)
    assert pace.interval == checkpoint_interval.optimal(8.0, 360_000.0) == pytest.approx(2394.7, abs=0.1)
    assert note == (
        "checkpoint.every: auto: a checkpoint every 40 min: a save costs 8.0 s (training waited 8.00 s, it took 20.0 "
        "s) and a failure comes every 4.2 days: sqrt(2 x cost x time between failures), to a higher order (Daly, 2006)"
    )
    assert pace.complete(blocked=8.5, seconds=20.0) is None, "it has hardly changed"
    assert pace.complete(blocked=60.0, seconds=20.0) is not None
    often = CheckpointPace(Checkpoint(every="auto"), 100.0)
    often.complete(blocked=0.1, seconds=50.0)
    assert often.interval == 50.0
