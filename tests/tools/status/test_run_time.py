"""The table of a run's seconds in `launcher status`."""

import json
import time

import pytest
from support.job_stories import NOW, SUBMITTED, ended, requeued, run, started
from typer.testing import CliRunner

from launcher import cli
from launcher.storage import ledger
from launcher.storage.ledger import LedgerLine
from launcher.tools.status import run_status, run_time
from launcher.tools.status.run_events import JobSchedulers


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder without runs, on a machine without Slurm, at a known time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(time, "time", lambda: NOW)
    return tmp_path / "runs" / "one"


def written(folder):
    """A ledger of 60 steps in 600 seconds, whose last line is 100 seconds ago."""
    for step, seconds in ((0, 0.0), (60, 600.0)):
        known = {"start": 20.0, "compute": seconds}
        line = LedgerLine(process="a", writer="rank", time=NOW - 700 + seconds, step=step, seconds=known)
        ledger.append(folder, line)
    return run_time.read(folder, run_status.read_status(folder, JobSchedulers()))


def test_what_was_done_after_the_checkpoint_of_a_run_that_has_ended_is_lost(here):
    seconds = written(run(here, events=[SUBMITTED, started()], checkpoint=40))
    assert (seconds.parts["compute"], seconds.parts["lost"], seconds.parts["down"]) == (400, 200, 0)
    assert seconds.goodput == pytest.approx(400 / 620)


def test_the_time_to_the_logged_end_is_down(here):
    seconds = written(run(here, events=[SUBMITTED, started(), ended("told", 60)], checkpoint=60))
    assert (seconds.parts["compute"], seconds.parts["down"]) == (600, 40)


def test_a_run_that_waits_for_its_next_start_is_down_until_now(here, monkeypatch):
    folder = run(here, events=[SUBMITTED, started(), ended("time", 60), requeued()], checkpoint=60)
    monkeypatch.setattr(run_time, "_WAITING", (run_status.read_status(folder, JobSchedulers()).state.name,))
    assert written(folder).parts["down"] == 100


def test_a_run_without_a_ledger_has_no_table(here, printed):
    folder = run(here, checkpoint=40, loss=1.0)
    status = run_status.read_status(folder, JobSchedulers())
    assert printed(lambda console: run_time.print_seconds(folder, status, console)) == []
    assert run_time.as_json(folder, status) is None


def test_goodput_and_table_fit_80_columns(here, printed):
    folder = run(here, events=[SUBMITTED, started()], checkpoint=40)
    written(folder)
    status = run_status.read_status(folder, JobSchedulers())
    lines = printed(lambda console: run_time.print_seconds(folder, status, console))
    assert lines[1] == "goodput 64.5%: this share of 10 min went into steps that count"
    assert [line.split()[:3] for line in lines[2:]] == [
        ["purpose", "seconds", "percent"], ["start", "20.0", "3.2%"], ["compute", "400.0", "64.5%"],
        ["lost", "200.0", "32.3%"], ["together", "620.0", "100.0%"],
    ]  # fmt: skip
    assert max(map(len, lines)) <= 80


def test_a_damaged_ledger_is_named_and_the_rest_is_shown(here):
    folder = run(here, checkpoint=40, loss=1.0)
    folder.ledger.write_text('{"process": 3}\n')
    done = CliRunner().invoke(cli.app, ["status", str(here)])
    assert done.exit_code == 0
    assert "ledger.jsonl:1: damaged: process: " in done.stdout
    assert "40/100" in done.stdout
    (one,) = json.loads(CliRunner().invoke(cli.app, ["status", str(here), "--json"]).stdout)
    assert one["time"] is None
