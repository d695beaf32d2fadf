"""Positions of ranks, as another process reads them, and the pauses that they are allowed."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.distributed import heartbeat
from launcher.distributed.heartbeat import Heartbeat, Position, Stage


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "heartbeats"
    heartbeat.create(file, 3)
    return file


def places(file):
    return [(p.rank, p.step, -p.left, p.stage) for p in heartbeat.positions(file)]


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
    first = heartbeat.positions(file)[0].time
    beats.beat(Stage.LOADING, 1)
    assert first <= heartbeat.positions(file)[0].time <= heartbeat.time.monotonic()


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


def test_five_times_the_longest_pause_is_allowed_and_twice_that_of_the_first_visit(monkeypatch):
    seconds = iter([0, 0, 1, 9, 10, 11, 14, 16])
    monkeypatch.setattr(heartbeat.time, "monotonic_ns", lambda: next(seconds) * 10**9)
    beats = Heartbeat()
    stages = [(Stage.LOADING, 1), (Stage.FORWARD, 1), (Stage.LOADING, 2), (Stage.FORWARD, 2), (Stage.LOADING, 3)]
    allowed = []
    for stage, step in stages:
        beats.beat(stage, step)
        allowed.append(beats.last.allowed)
    assert allowed == [None, None, 16.0, 2.0, 16.0]
    beats.beat(Stage.FORWARD, 3)
    assert beats.last.allowed == 15.0


def test_a_stage_is_visited_for_the_first_time_until_another_begins():
    """Each micro-batch of an evaluation is a beat."""
    beats = Heartbeat()
    for _ in range(3):
        beats.beat(Stage.EVALUATING, 4)
        assert beats.last.allowed is None


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
