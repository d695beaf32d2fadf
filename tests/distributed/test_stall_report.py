"""When it is reported that no rank moves on, and who is named."""

import pytest

from launcher.distributed import stall_report
from launcher.distributed.heartbeat import Position, Stage
from launcher.distributed.stall_report import StallReport, sentence


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(stall_report.time, "monotonic", lambda: now[0])
    return now


def at(time, step=3, stage=Stage.FORWARD, rank=0):
    return Position(step, 0, stage, rank, time)


def reports(clock, beats, looks, capsys):
    """The times at which something is reported: `beats`, the times of beats of one rank; `looks`, when it is looked."""
    watched, found = StallReport(), []
    for now in looks:
        clock[0] = 1000 + now
        watched.look([at(1000 + max(beat for beat in beats if beat <= now))])
        if capsys.readouterr().err:
            found.append(now)
    return found


def test_a_minute_without_a_beat_is_reported_and_then_ever_more_rarely(clock, capsys):
    assert reports(clock, [0], range(0, 600, 10), capsys) == [70, 150, 310]


def test_beats_start_the_minute_again(clock, capsys):
    assert reports(clock, [0, 50, 100, 150], range(0, 220, 10), capsys) == []


def test_a_beat_after_a_report_lets_the_next_silence_be_reported(clock, capsys):
    assert reports(clock, [0, 75], range(0, 500, 10), capsys) == [70, 460]  # five times the longest pause


def test_long_steps_are_given_more_time(clock, capsys):
    assert reports(clock, [0, 40, 80], range(0, 400, 10), capsys) == [290]


def test_ranks_that_have_not_begun_are_given_time(clock, capsys):
    watched = StallReport()
    clock[0] = 10_000
    watched.look([])
    watched.look([at(1000, 0, Stage.STARTING)])
    assert capsys.readouterr().err == ""


def test_who_is_behind_is_named():
    one, other = at(0, 3, Stage.FORWARD, 1), at(0, 3, Stage.REDUCING, 0)
    assert sentence([one, other], 61.4) == (
        "no rank has moved on for 61 s: rank 1 is at step 3 (in the forward pass); the others wait"
    )


def test_all_of_them_may_stand_still():
    both = [at(0, 3, Stage.SAVING, rank) for rank in (0, 1)]
    assert sentence(both, 120) == "no rank has moved on for 120 s: ranks 0, 1 are at step 3 (saving a checkpoint)"
