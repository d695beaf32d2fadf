"""Where ranks are, as another process reads it."""

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
def test_those_behind_are_at_one_place_and_all_others_are_further(positions):
    behind = heartbeat.behind(positions)
    assert len({position.place for position in behind}) == bool(positions)
    assert all(other.place > behind[0].place for other in positions if other not in behind)


def test_a_place_is_a_sentence():
    assert str(at(4, 1, Stage.FORWARD)) == "at step 4 (in the forward pass)"
    assert str(at(0, 0, Stage.STARTING)) == "starting"


def test_every_stage_has_words():
    assert all(str(at(1, stage=stage)) for stage in Stage)
