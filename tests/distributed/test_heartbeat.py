"""Positions of ranks, as another process reads them, and reports that no rank moves on."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.distributed import heartbeat
from launcher.distributed.heartbeat import Heartbeat, Position, Stage, StallReport, describe_stall


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "heartbeats"
    heartbeat.create(file, 3)
    return file


def places(file):
    return [(p.rank, p.step, -p.left, p.stage) for p in heartbeat.read(file)]


def test_only_ranks_that_have_begun_are_read(file):
    assert heartbeat.read(file) == []
    Heartbeat(file, row=1, rank=5)
    assert places(file) == [(5, 0, 0, Stage.STARTING)]


BEAT = """
import sys
from pathlib import Path
from launcher.distributed.heartbeat import Heartbeat, Stage
Heartbeat(Path(sys.argv[1]), row=2, rank=2).beat(Stage.FORWARD, 7, left=3)
"""


def test_beats_of_another_process_are_read_and_outlive_it(file):
    subprocess.run([sys.executable, "-c", BEAT, file], check=True, timeout=60)
    assert places(file) == [(2, 7, 3, Stage.FORWARD)]


def test_the_time_of_a_beat_is_of_the_machine(file):
    beats = Heartbeat(file)
    first = heartbeat.read(file)[0].time
    beats.beat(Stage.LOADING, 1)
    assert first <= heartbeat.read(file)[0].time <= heartbeat.time.monotonic()


def test_without_a_file_beats_go_nowhere():
    Heartbeat().beat(Stage.SAVING, 3)


def at(step, left=0, stage=Stage.FORWARD, rank=0):
    return Position(step, -left, stage, rank, 0.0)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (at(3, 0, Stage.LEAVING), at(4, 5, Stage.LOADING)),
        (at(3, 2, Stage.BACKWARD), at(3, 1, Stage.FORWARD)),
        (at(3, 1, Stage.FORWARD), at(3, 1, Stage.BACKWARD)),
        (at(3, 0, Stage.BACKWARD), at(3, 0, Stage.REDUCING)),
    ],
)
def test_the_one_that_is_behind_is_waited_for(less, more):
    assert heartbeat.behind([more, less, more]) == [less]


@given(st.lists(st.builds(at, st.integers(0, 3), st.integers(0, 2), st.sampled_from(Stage), st.integers(0, 9))))
def test_ranks_behind_have_the_same_progress_and_all_others_have_more(positions):
    behind = heartbeat.behind(positions)
    assert len({position.progress for position in behind}) == bool(positions)
    assert all(other.progress > behind[0].progress for other in positions if other not in behind)


def test_a_position_is_printed_as_a_sentence():
    assert str(at(4, 1, Stage.FORWARD)) == "at step 4 (in the forward pass)"
    assert str(at(0, 0, Stage.STARTING)) == "starting"


def test_every_stage_has_a_description():
    assert all(str(at(1, stage=stage)) for stage in Stage)


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    return now


def beat_at(time, step=3, stage=Stage.FORWARD, rank=0):
    return Position(step, 0, stage, rank, time)


def report_times(clock, beats, checks, caplog):
    """The times at which a stall is reported. `beats`: times of one rank's beats; `checks`: times of updates."""
    stalls, times = StallReport(), []
    for now in checks:
        clock[0] = 1000 + now
        stalls.update([beat_at(1000 + max(beat for beat in beats if beat <= now))])
        if caplog.messages:
            times.append(now)
            caplog.clear()
    return times


def test_a_minute_without_a_beat_is_reported_and_then_ever_more_rarely(clock, caplog):
    assert report_times(clock, [0], range(0, 600, 10), caplog) == [70, 150, 310]


def test_beats_start_the_minute_again(clock, caplog):
    assert report_times(clock, [0, 50, 100, 150], range(0, 220, 10), caplog) == []


def test_a_beat_after_a_report_lets_the_next_silence_be_reported(clock, caplog):
    assert report_times(clock, [0, 75], range(0, 500, 10), caplog) == [70, 460]  # five times the longest pause


def test_long_steps_delay_the_report(clock, caplog):
    assert report_times(clock, [0, 40, 80], range(0, 400, 10), caplog) == [290]


def test_ranks_that_are_starting_do_not_stall(clock, caplog):
    stalls = StallReport()
    clock[0] = 10_000
    stalls.update([])
    stalls.update([beat_at(1000, 0, Stage.STARTING)])
    assert caplog.messages == []


def test_who_is_behind_is_named():
    one, other = beat_at(0, 3, Stage.FORWARD, 1), beat_at(0, 3, Stage.REDUCING, 0)
    assert describe_stall([one, other], 61.4) == (
        "no rank has moved on for 61 s: rank 1 is at step 3 (in the forward pass); the others wait"
    )


def test_all_of_them_may_stand_still():
    both = [beat_at(0, 3, Stage.SAVING, rank) for rank in (0, 1)]
    assert describe_stall(both, 120) == "no rank has moved on for 120 s: ranks 0, 1 are at step 3 (saving a checkpoint)"


def test_the_time_between_beats_belongs_to_the_stage_that_ends(monkeypatch):
    now = iter([0, 5_000_000_000, 7_000_000_000, 8_000_000_000, 11_000_000_000])
    monkeypatch.setattr(heartbeat.time, "monotonic_ns", lambda: next(now))
    beats = Heartbeat()
    for stage in (Stage.LOADING, Stage.FORWARD, Stage.LOADING):
        beats.beat(stage)
    spent = {stage: seconds for stage, seconds in beats.seconds.items() if seconds}
    assert spent == {Stage.STARTING: 7.0, Stage.LOADING: 1.0, Stage.FORWARD: 3.0}


def test_a_step_counts_when_all_ranks_have_updated(tmp_path):
    file = tmp_path / "beats"
    heartbeat.create(file, 2)
    first, second = (Heartbeat(file, row, row) for row in range(2))
    for one in (first, second):
        assert not heartbeat.have_stepped(file)
        one.beat(Stage.UPDATING, 7)
        assert not heartbeat.have_stepped(file)
        one.beat(Stage.LOADING, 8)
    assert heartbeat.have_stepped(file)
