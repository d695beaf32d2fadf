"""Every second of a run has one purpose, whatever its history of starts, kills, repeated steps and clock changes."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.storage import goodput
from launcher.storage.goodput import Hang
from launcher.storage.ledger import LedgerLine

NOW = 1_800_000_000.0
SECONDS = st.floats(0, 1000)


def line(process, time, step=None, writer="rank", **seconds):
    return LedgerLine(process=process, writer=writer, time=time, step=step, seconds=seconds)


def account(*lines, **options):
    found = goodput.account(lines, **options)
    assert found is not None
    return {purpose: seconds for purpose, seconds in found.parts.items() if seconds}


def test_a_run_without_a_ledger_has_no_account():
    assert goodput.account([]) is None


def test_the_ranks_of_a_command_are_being_started_until_their_own_account_begins():
    parts = account(line("a", NOW, writer="command", start=1, prepare=4), line("b", NOW + 10, 0, start=7))
    assert parts == {"start": 11, "prepare": 4}


def test_between_two_starts_nothing_runs():
    first = [line("a", NOW, 0, start=1), line("a", NOW + 4, 2, start=1, compute=4)]
    parts = account(*first, line("b", NOW + 64, 2, start=10))
    assert parts == {"start": 11, "compute": 4, "down": 50}


def test_steps_that_are_repeated_are_lost_with_the_step_that_was_not_finished():
    parts = account(
        line("a", NOW, 0, start=1),
        line("a", NOW + 10, 10, start=1, compute=9, data=1),
        line("a", NOW + 13, 10, start=1, compute=9, data=4),  # in the eleventh step
        line("b", NOW + 13, 5),
        line("b", NOW + 18, 10, compute=5),
    )
    assert parts == {"start": 1, "compute": 4.5 + 5, "data": 0.5, "lost": 5 + 3}


def test_steps_may_be_lost_more_than_once_and_each_second_is_lost_once():
    parts = account(
        line("a", NOW, 0),
        line("a", NOW + 10, 10, compute=10),
        line("b", NOW + 10, 8),
        line("b", NOW + 12, 10, compute=2),
        line("c", NOW + 12, 4),
        line("c", NOW + 20, 12, compute=8),
    )
    assert parts == {"compute": 4 + 8, "lost": 6 + 2}


def test_a_rollback_inside_of_a_start_loses_its_steps():
    parts = account(line("a", NOW, 0), line("a", NOW + 9, 9, compute=9), line("a", NOW + 9, 3, compute=9))
    assert parts == {"compute": 3, "lost": 6}


def test_a_dead_run_loses_what_it_did_after_its_checkpoint():
    lines = line("a", NOW, 0), line("a", NOW + 9, 9, compute=9)
    assert account(*lines) == {"compute": 9}
    assert account(*lines, saved=3) == {"compute": 3, "lost": 6}
    assert account(*lines, saved=9, end=NOW + 11) == {"compute": 9, "down": 2}


def test_a_hang_is_taken_from_the_step_that_hung_and_from_the_time_after_it():
    lines = [
        line("a", NOW, 0),
        line("a", NOW + 9, 9, compute=9),
        line("a", NOW + 29, 9, compute=10, communicate=19),
        line("b", NOW + 33, 9),
    ]
    assert account(*lines, hangs=[Hang(NOW + 31, 21)]) == {"compute": 9, "hang": 21, "lost": 3}
    assert account(*lines, hangs=[Hang(NOW + 31, 500)]) == {"compute": 9, "hang": 24}
    later = line("b", NOW + 43, 9, communicate=10)
    assert account(*lines, later, hangs=[Hang(NOW + 50, 6)]) == {
        "compute": 9, "communicate": 4, "hang": 6, "lost": 20, "down": 4,
    }  # fmt: skip


def test_a_hang_in_an_evaluation_or_a_save_is_taken_from_it():
    for purpose in ("evaluate", "save"):
        lines = [
            line("a", NOW, 0),
            line("a", NOW + 9, 9, compute=9),
            line("a", NOW + 29, 9, compute=9, **{purpose: 20}),
            line("b", NOW + 33, 9),
        ]
        assert account(*lines, hangs=[Hang(NOW + 30, 19)]) == {"compute": 9, "hang": 19, purpose: 5}


def test_hangs_are_read_from_the_job_log_unless_they_were_only_reported():
    event = {"event": "hang", "job": "12", "time": NOW, "rank": 3, "seconds": 60.5, "action": "restart"}
    others = [{**event, "action": "report"}, {**event, "event": "started"}, {**event, "seconds": "x"}]
    assert goodput.hangs([event, *others]) == [Hang(NOW, 60.5)]


def test_a_hang_that_two_nodes_record_counts_once():
    lines = [line("a", NOW, 4), line("a", NOW + 20, 4, communicate=20), line("b", NOW + 20, 4)]
    assert account(*lines, hangs=[Hang(NOW + 19, 10), Hang(NOW + 20, 10)]) == {"hang": 10, "lost": 10}


def test_lines_of_a_process_that_another_has_followed_do_not_count():
    first, followed = [line("a", NOW, 0), line("a", NOW + 3, 3, compute=3)], line("a", NOW + 8, 8, compute=8)
    lines = [*first, line("b", NOW + 3, 3), followed]
    assert account(*lines) == {"compute": 3}


@dataclass
class World:
    """A run as it happens, with a true clock and one that jumps. `lines`: what it writes; `truth`: its seconds."""

    clock: float = 0.0
    off: float = NOW
    step: int = 0
    lines: list = field(default_factory=list)
    truth: dict = field(default_factory=dict)

    def live(self, process, purposes):
        """A process from its beginning to a sudden end, a line every few events."""
        spent = {}
        resumed = self.step
        self.lines.append(line(process, self.clock + self.off, resumed))
        for purpose, seconds, jump, steps, written in purposes:
            self.clock += seconds
            self.off += jump
            spent[purpose] = spent.get(purpose, 0.0) + seconds
            self.truth[purpose] = self.truth.get(purpose, 0.0) + seconds
            resumed += steps
            if written:
                self.lines.append(line(process, self.clock + self.off, resumed, **spent))
        self.lines.append(line(process, self.clock + self.off, resumed, **spent))


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["start", "compile", "data", "compute", "communicate", "save", "evaluate"]),
        SECONDS, st.sampled_from([0.0, 0.0, 3600.0, -3600.0, 0.5]), st.integers(0, 5), st.booleans(),
    ),
    max_size=8,
)  # fmt: skip


@given(st.lists(st.tuples(EVENTS, SECONDS, st.floats(0, 1)), min_size=1, max_size=6), SECONDS)
def test_the_parts_add_up_to_the_wall_clock_while_clocks_jump_in_processes(starts, hung):
    """Kills at any time, steps repeated from any checkpoint, hangs, and clocks that jump inside of processes."""
    world = World()
    for number, (events, pause, kept) in enumerate(starts):
        if number:
            world.clock += pause
        world.live(str(number), events)
        world.step = int(world.lines[-1].step * kept)
    found = goodput.account(world.lines, [Hang(world.clock + world.off, hung)] if hung else [], saved=world.step)
    assert found.total == pytest.approx(world.clock, abs=1e-4)
    assert sum(found.parts.values()) == pytest.approx(found.total)
    assert all(seconds >= 0 for seconds in found.parts.values())
    for purpose in ("start", "compile", "save", "evaluate"):
        assert found.parts[purpose] == pytest.approx(world.truth.get(purpose, 0.0), abs=1e-4)
    steps = sum(world.truth.get(purpose, 0.0) for purpose in ("data", "compute", "communicate"))
    kept = sum(found.parts[purpose] for purpose in ("data", "compute", "communicate", "lost"))
    assert kept + found.parts["hang"] + found.parts["down"] >= steps - 1e-4
    assert 0 <= found.goodput <= 1


@given(EVENTS, EVENTS, st.floats(-1e5, 1e5))
def test_a_clock_that_is_set_between_two_starts_changes_only_the_time_between_them(first, second, jump):
    world = World()
    world.live("a", first)
    between = world.clock
    world.off += jump
    world.live("b", second)
    found = goodput.account(world.lines)
    assert between <= world.clock
    assert found.total == pytest.approx(world.clock + max(0.0, jump), abs=1e-3)
    assert found.parts["down"] == pytest.approx(max(0.0, jump), abs=1e-3)
