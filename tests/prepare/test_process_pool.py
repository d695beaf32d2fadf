"""A function mapped over items, in one process or several."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.config.errors import UserError
from launcher.distributed.signals import SIGNALS
from launcher.prepare import process_pool
from launcher.storage.lease import LeaseLost


@dataclass(frozen=True)
class WorkItem:
    name: str
    size: int = 1


class LeaseHeld:
    """A lease that is lost after so many checks."""

    def __init__(self, looks=10**6):
        self.looks = looks

    def check(self):
        self.looks -= 1
        if self.looks < 0:
            raise LeaseLost("taken over")


def note(piece):
    """Write the name of an item and the process that it ran in."""
    with Path("done").open("a") as out:
        out.write(f"{piece.name} {os.getpid()}\n")


def refuse(piece):
    note(piece)
    if piece.name == "wrong":
        raise UserError("a.jsonl:3: is wrong")


def done():
    return [line.split() for line in Path("done").read_text().splitlines()]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(function, pieces, most=None, lease=None):
    process_pool.run(function, pieces, "working", lease or LeaseHeld(), most)


@pytest.mark.parametrize(("most", "size"), [(1, process_pool.SMALL), (8, 1), (None, 1)])
def test_little_work_or_one_process_is_done_here_in_order(most, size):
    run(note, [WorkItem(name, size) for name in "cab"], most)
    assert done() == [[name, str(os.getpid())] for name in "cab"]


def test_much_work_is_done_by_others_each_piece_once():
    run(note, [WorkItem(str(n), process_pool.SMALL) for n in range(7)], most=2)
    assert sorted(name for name, _ in done()) == [str(n) for n in range(7)]
    assert str(os.getpid()) not in {pid for _, pid in done()}
    assert len({pid for _, pid in done()}) <= 2


@pytest.mark.parametrize("size", [1, process_pool.SMALL])
def test_a_mistake_is_told_as_it_is(size):
    pieces = [WorkItem("good", size), WorkItem("wrong", 2 * size), *[WorkItem("other", size)] * 3]
    with pytest.raises(UserError, match=r"^a\.jsonl:3: is wrong$"):
        run(refuse, pieces, most=2)


@pytest.mark.parametrize("size", [1, process_pool.SMALL])
def test_who_lost_the_lease_stops(size):
    Path("done").touch()  # on a busy machine the lease is lost before any piece is done
    with pytest.raises(LeaseLost):
        run(note, [WorkItem(str(n), size) for n in range(60)], 2, LeaseHeld(1))
    assert len(done()) < 60


def test_nothing_to_do_is_done():
    run(note, [])
    assert not Path("done").exists()


def test_progress_is_told_now_and_then_where_there_is_no_terminal(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(process_pool, "_LOG_INTERVAL", -1.0)
    run(note, [WorkItem(str(n), 2**18) for n in range(4)], 1)
    assert caplog.messages == [f"working: {done}% of 1 MiB" for done in (25, 50, 75, 100)]


def note_mask(piece):
    with Path("done").open("a") as out:
        out.write(f"{piece.name} {len(signal.pthread_sigmask(signal.SIG_BLOCK, ()))}\n")


def test_processes_are_started_with_signals_waiting_and_take_them_once_they_can(monkeypatch):
    """Ctrl-C reaches processes that are still importing: each would print a traceback."""
    started = []

    class Pool(process_pool.ProcessPoolExecutor):
        def submit(self, *given):
            started.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
            return super().submit(*given)

    monkeypatch.setattr(process_pool, "ProcessPoolExecutor", Pool)
    run(note_mask, [WorkItem("a", process_pool.SMALL), WorkItem("b", process_pool.SMALL)], 2)
    assert sorted(done()) == [["a", "0"], ["b", "0"]]
    assert started == [set(SIGNALS)] * 2
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
