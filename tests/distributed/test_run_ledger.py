import os
import time

import pytest

from launcher.distributed import run_ledger
from launcher.distributed.heartbeat import Heartbeat, Stage
from launcher.distributed.run_ledger import RankLedger
from launcher.storage import goodput, ledger
from launcher.storage.ledger import LedgerLine
from launcher.storage.run_dir import RunDir


class Lease:
    """A lease as far as the ledger asks."""

    def __init__(self, lost):
        self.lost = lost


@pytest.fixture
def folder(tmp_path):
    return RunDir(tmp_path)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set: a list of one number, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic_ns", lambda: int(now[0] * 1e9))
    monkeypatch.setattr(run_ledger, "_process_age", lambda: now[0] - 990.0)
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def spend(clock, beat, stage, seconds, step=0):
    beat.beat(stage, step)
    clock[0] += seconds


def test_seconds_of_stages_are_seconds_by_purpose(folder, clock):
    beat = Heartbeat()
    account = RankLedger(folder, beat)
    clock[0] += 2
    account.resume(7)
    for stage, seconds in ((Stage.LOADING, 1), (Stage.AGREEING, 2), (Stage.FORWARD, 3), (Stage.REDUCING, 4)):
        spend(clock, beat, stage, seconds, 8)
    spend(clock, beat, Stage.SAVING, 5, 8)
    account.saved()
    first, last = ledger.read(folder)
    assert (first.step, first.seconds) == (7, {"start": 12.0})
    assert (last.step, last.saves) == (8, 1)
    assert last.seconds == {"start": 12.0, "data": 1.0, "communicate": 6.0, "compute": 3.0, "save": 5.0}
    assert account.goodput() == pytest.approx(10 / 27)


def test_goodput_knows_what_was_before(folder, clock):
    for step, seconds in ((0, 0.0), (10, 100.0)):
        line = LedgerLine(process="a", writer="rank", time=800 + seconds, step=step, seconds={"compute": seconds})
        ledger.append(folder, line)
    beat = Heartbeat()
    account = RankLedger(folder, beat)  # its process began at 990, 90 seconds after the last line
    account.resume(5)
    spend(clock, beat, Stage.FORWARD, 50, 6)
    assert account.goodput() == pytest.approx((50 + 50) / (100 + 90 + 10 + 50))


def test_compilation_is_taken_from_the_stages_in_which_it_happens(folder, clock, monkeypatch):
    compiled = [0.0]
    monkeypatch.setattr(RankLedger, "_compiled", lambda self: compiled[0])
    beat = Heartbeat()
    account = RankLedger(folder, beat, compiles=True)
    clock[0] += 5
    compiled[0] = 4
    account.resume(0)
    spend(clock, beat, Stage.FORWARD, 10, 1)
    compiled[0] = 11
    account.write()
    assert ledger.read(folder)[-1].seconds == {"start": 11.0, "compile": 11.0, "compute": 3.0}


def test_compile_seconds_come_from_torch(folder):
    import torch

    account = RankLedger(folder, Heartbeat(), compiles=True)
    before = account._compiled()
    torch.compile(lambda x: x + 1, backend="eager")(torch.ones(3))
    assert account._compiled() > before
    assert RankLedger(folder, Heartbeat())._compiled() == 0.0


def test_a_stage_without_a_step_changes_no_step(folder, clock):
    beat = Heartbeat()
    account = RankLedger(folder, beat)
    account.resume(7)
    beat.beat(Stage.LOADING, 10)
    account.write()
    beat.beat(Stage.STARTING)
    account.write()
    assert [line.step for line in ledger.read(folder)] == [7, 9, 9]


def test_a_step_that_is_taken_stays_so_in_all_that_follows_it(folder, clock):
    beat = Heartbeat()
    account = RankLedger(folder, beat)
    account.resume(7)
    spend(clock, beat, Stage.FORWARD, 10, 8)
    for stage in (Stage.EVALUATING, Stage.SCORING, Stage.SAVING, Stage.LEAVING, Stage.STARTING):
        beat.beat(stage, 8)
        account.write()
    assert [line.step for line in ledger.read(folder)] == [7, 8, 8, 8, 8, 8]
    assert goodput.account(ledger.read(folder)).parts["lost"] == 0


def test_lines_are_written_while_a_rank_stands_still(folder, monkeypatch):
    monkeypatch.setattr(run_ledger, "SHORTEST", 0.01)
    monkeypatch.setattr(run_ledger, "LONGEST", 0.01)  # however old the process of the tests is
    beat = Heartbeat()
    with RankLedger(folder, beat).kept():
        beat.beat(Stage.AGREEING, 1)
        time.sleep(0.3)
    lines = ledger.read(folder)
    assert len(lines) >= 3
    assert lines[-1].seconds["communicate"] > lines[0].seconds.get("communicate", 0.0)


def test_a_start_that_was_replaced_writes_nothing(folder):
    RankLedger(folder, Heartbeat(), lease=Lease(lost=True)).write()
    assert not folder.ledger.exists()


def test_a_full_disk_and_a_damaged_ledger_hold_up_nothing(tmp_path):
    (tmp_path / "ledger.jsonl").symlink_to("/dev/full")
    account = RankLedger(RunDir(tmp_path), Heartbeat())
    account.resume(0)
    run_ledger.record_command(RunDir(tmp_path))
    assert 0 <= account.goodput() <= 1


def test_a_rank_that_has_prepared_the_run_itself_counts_its_seconds_once(folder):
    run_ledger.record_command(folder, prepare=0.0)
    account = RankLedger(folder, Heartbeat())
    account.resume(0)
    command, rank = ledger.read(folder)
    assert rank.begun == pytest.approx(command.time, abs=0.5)
    assert goodput.account([command, rank]).total == pytest.approx(run_ledger._process_age(), abs=0.5)


def test_the_age_of_a_process_is_that_of_its_fork():
    reading, writing = os.pipe()
    time.sleep(0.05)
    if (child := os.fork()) == 0:
        os.write(writing, str(run_ledger._process_age()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert float(os.read(reading, 100)) < 5
