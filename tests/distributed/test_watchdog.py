"""When ranks count as hung, by a clock of the test: healthy pauses of every length, stopped launchers and debuggers."""

import pytest

from launcher.distributed import heartbeat, watchdog
from launcher.distributed.heartbeat import Heartbeat, Stage
from launcher.distributed.stacks import Frame, Stack
from launcher.distributed.watchdog import Watchdog

MAIN = Stack((Frame("/home/me/reader.py", 88, "read"),), "")
WAITS = Stack((Frame("/x/site-packages/torch/distributed/distributed_c10d.py", 1, "all_gather"), *MAIN.frames), "")
COMPILES = Stack((Frame("/x/site-packages/torch/_inductor/graph.py", 1, "run"), *MAIN.frames), "")


class Ranks:
    """Ranks whose beats and stacks the test decides, at a time that it decides."""

    def __init__(self, folder, patch, count=2, seconds=60.0):
        self.now, self.stack, self.process = 100.0, [MAIN, WAITS], ""
        patch.setattr(watchdog.time, "monotonic", lambda: self.now)
        patch.setattr(heartbeat.time, "monotonic_ns", lambda: int(self.now * 1e9))
        patch.setattr(watchdog, "process_status", lambda pid: self.process)
        patch.setattr(watchdog.stacks, "request", lambda pid, file, revive=False: self.stack[self._number(file)])
        file = folder / "heartbeats"
        heartbeat.create(file, count)
        self.beats = [Heartbeat(file, rank, rank) for rank in range(count)]
        self.watchdog = Watchdog(file, folder, seconds, 1800)

    def _number(self, file):
        return int(file.stem.removeprefix("stacks-rank"))

    def beat(self, stage, step=1, rank=None, after=0.0):
        self.now += after
        for number, beat in enumerate(self.beats):
            if rank in (None, number):
                beat.beat(stage, step)

    def train(self, first, last, seconds=1.0):
        """Steps of so many seconds in each stage."""
        for step in range(first, last + 1):
            for stage in (Stage.LOADING, Stage.AGREEING, Stage.FORWARD, Stage.BACKWARD):
                self.beat(stage, step)
                assert self.hang_after(seconds) is None

    def hang_after(self, seconds):
        """The seconds until a hang is found; None: none is found in this time."""
        begin = self.now
        while self.now < begin + seconds:
            self.now += min(0.5, begin + seconds - self.now)
            if self.watchdog.check():
                return self.now - begin
        return None


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    return Ranks(tmp_path, monkeypatch)


def test_a_rank_that_stands_still_is_found_after_the_limit(ranks):
    ranks.train(1, 3)
    ranks.beat(Stage.LOADING, 4)
    ranks.beat(Stage.AGREEING, 4, rank=1)
    assert 60 < ranks.hang_after(100) < 62
    assert [(state.rank, state.where, state.collective) for state in ranks.watchdog.check()] == [
        (0, "reader.py:88", ""), (1, "reader.py:88", "all-gather"),
    ]  # fmt: skip


def test_a_pause_of_five_times_the_longest_one_is_healthy(ranks):
    ranks.train(1, 3, seconds=20)
    ranks.beat(Stage.LOADING, 4)
    assert 100 < ranks.hang_after(200) < 102


def test_the_limit_is_that_of_the_rank_for_which_the_others_wait(ranks):
    """They may have waited for long before."""
    for step in (1, 2, 3):
        ranks.beat(Stage.LOADING, step)
        ranks.beat(Stage.AGREEING, step, after=1)
        assert ranks.hang_after(100) is None
    ranks.beat(Stage.LOADING, 4)
    ranks.beat(Stage.AGREEING, 4, rank=1)
    assert 60 < ranks.hang_after(100) < 62


def test_a_step_twice_as_slow_as_usual_is_healthy(ranks):
    ranks.train(1, 3, seconds=50)
    ranks.train(4, 5, seconds=100)


@pytest.mark.parametrize(
    ("stage", "minutes"),
    [(Stage.FORWARD, 10), (Stage.EVALUATING, 10), (Stage.STARTING, 15), (Stage.SCORING, 15), (Stage.SAVING, 15)],
)
def test_a_stage_may_last_minutes_the_first_time(ranks, stage, minutes):
    ranks.beat(stage)
    assert ranks.hang_after(60 * minutes - 1) is None
    assert ranks.hang_after(3) is not None


def test_the_end_has_no_limit(ranks):
    ranks.beat(Stage.LEAVING, 5)
    assert ranks.hang_after(10_000) is None


def test_micro_batches_of_a_long_evaluation_are_beats(ranks):
    for _ in range(2):
        ranks.train(1, 2)
        for _ in range(100):
            ranks.beat(Stage.EVALUATING, 2)
            assert ranks.hang_after(50) is None


def test_ranks_that_wait_for_a_long_save_of_another_are_healthy(ranks):
    ranks.beat(Stage.SAVING, 1, rank=0)
    ranks.beat(Stage.AGREEING, 2, rank=1)
    assert ranks.hang_after(300) is None
    ranks.beat(Stage.LOADING, 2, rank=0)
    ranks.train(2, 3)
    ranks.beat(Stage.SAVING, 3, rank=0)
    ranks.beat(Stage.AGREEING, 4, rank=1)
    assert 900 < ranks.hang_after(1000) < 902


def test_a_learned_limit_is_at_most_the_timeout_of_the_group(ranks):
    ranks.train(1, 2, seconds=500)
    ranks.beat(Stage.LOADING, 3)
    assert 1800 < ranks.hang_after(4000) < 1802


def test_time_in_which_the_launcher_does_not_run_does_not_count(ranks):
    """SIGSTOP of the whole job and SIGCONT, or a machine that was suspended, by a clock that counts the pause."""
    ranks.train(1, 3)
    ranks.beat(Stage.LOADING, 4)
    assert ranks.hang_after(1) is None
    ranks.now += 10_000
    assert ranks.hang_after(50) is None
    assert 5 < ranks.hang_after(50) < 12


def test_a_rank_that_compiles_is_waited_for(ranks):
    ranks.train(1, 3)
    ranks.beat(Stage.LOADING, 4)
    ranks.stack[0] = COMPILES
    assert ranks.hang_after(1000) is None
    ranks.stack[0] = MAIN
    assert ranks.hang_after(62) is not None


def test_a_rank_in_a_debugger_is_waited_for(ranks):
    ranks.train(1, 3)
    ranks.beat(Stage.LOADING, 4)
    ranks.process = "tracing-stop"
    assert ranks.hang_after(1000) is None


def test_a_reported_hang_is_reported_again_after_twice_the_time(ranks):
    ranks.train(1, 3)
    ranks.beat(Stage.LOADING, 4)
    assert ranks.hang_after(70) is not None
    ranks.watchdog.report_again_later()
    assert ranks.hang_after(55) is None
    assert ranks.hang_after(10) is not None


def test_a_rank_that_moves_on_meanwhile_hangs_no_more(ranks):
    ranks.train(1, 3)
    ranks.beat(Stage.LOADING, 4)
    assert ranks.hang_after(70) is not None
    ranks.beat(Stage.AGREEING, 4)
    assert ranks.hang_after(50) is None


def test_without_a_limit_nothing_hangs(tmp_path, monkeypatch):
    ranks = Ranks(tmp_path, monkeypatch, seconds=None)
    ranks.beat(Stage.LOADING)
    assert ranks.hang_after(10_000) is None
