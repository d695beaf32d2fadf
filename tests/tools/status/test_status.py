"""`launcher status`: tables of runs, with a Slurm that answers, one that does not, and none."""

import json
import time

import pytest
from support.job_stories import NOW, SUBMITTED, ended, requeued, run, save, started
from typer.testing import CliRunner

from launcher import cli
from launcher.config.errors import UserError
from launcher.schedulers import _slurm_queue as slurm_queue
from launcher.storage import job_log, lease
from launcher.tools.status import run_events, run_status, status


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder without runs, on a machine without Slurm, at a known time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(time, "time", lambda: NOW)
    return tmp_path / "runs"


@pytest.fixture
def slurm(monkeypatch):
    """Slurm's answers by id, and the ids of the questions."""
    known, asked = {}, []

    def job(id):
        asked.append(id)
        return known.get(id)

    monkeypatch.setattr(slurm_queue, "job", job)
    return known, asked


def known(name, state, **fields):
    return slurm_queue.Job("12", name, state, **fields)


def test_steps_after_the_checkpoint_do_not_count_for_a_stopped_run(here, slurm):
    folder = run(here / "one", events=[SUBMITTED, started()], checkpoint=40, loss=2.0)
    one = run_status.read_status(folder, run_events.JobSchedulers())
    assert (one.state.name, one.step, one.loss) == ("node lost", 40, 2.0)
    slurm[0]["12"] = known("one", "RUNNING")
    one = run_status.read_status(folder, run_events.JobSchedulers())
    assert (one.state.name, one.step) == ("running", 43)


def test_runs_of_all_kinds_in_80_columns(here, slurm, printed):
    answers, asked = slurm
    run(here / "done", events=[SUBMITTED, started(), ended("done", 100, code=0)], checkpoint=100, loss=1.23456)
    run(here / "local", checkpoint=40, loss=2.0)
    run(here / "planned")
    run(here / "a-run-whose-name-is-long-enough-to-be-folded-over-lines", 1_000_000, [SUBMITTED, started()], 123_000, 9)
    run(here / "again", events=[SUBMITTED, started(), ended("time", 40), requeued()], checkpoint=40, loss=3.5)
    folded = "a-run-whose-name-is-long-enough-to-be-folded-over-lines"
    answers["12"] = known("again", "PENDING", reason="BeginTime", restarts=1)
    lines = printed(lambda console: status.status([], False, console))
    assert lines[0].split() == ["run", "state", "step", "loss", "job", "where", "requeues", "since"]
    text = "\n".join(lines)
    for words in ("done ", "stopped", "ready", "requeued: ", "BeginTime ", "123,000/1,000,000", "1.235", "a +1"):
        assert words in text
    assert max(map(len, lines)) <= 80
    assert folded not in text  # it takes more than one line
    assert len(asked) == 2  # what is done is not asked for
    row = next(line for line in lines if line.startswith("done"))
    assert row.split() == ["done", "done", "100/100", "1.235", "12", "a", "+1", "60", "s"]


def test_empty_columns_are_left_out(here, printed):
    run(here / "local", checkpoint=40, loss=2.0)
    lines = printed(lambda console: status.status([], False, console))
    assert lines[0].split() == ["run", "state", "step", "loss", "since"]


def test_one_run_has_a_history(here, slurm, printed):
    answers, _ = slurm
    events = [
        SUBMITTED, started(0), ended("node", 0, 0, 69, excluded=["b"]), requeued(), started(1, 0, ["a", "c"]),
        ended("time", 40, 1), requeued(), started(2, 40, ["a", "c", "d", "e", "f"]),
    ]  # fmt: skip
    told = {"watched": {"metric": "eval/f1", "value": -0.9}, "evaluation": {"eval/f1": 0.9, "eval/loss": 1.0}}
    folder = run(here / "again", events=events, checkpoint=40, loss=3.5, **told)
    answers["12"] = known("again", "RUNNING", nodes="a,c", start=NOW - 60, end=NOW + 600)
    lines = printed(lambda console: status.status([str(folder.path)], False, console))
    text = "\n".join(lines)
    assert "f1 0.9 at step 40" in text
    assert "it goes on from step 40" in text
    assert "its time limit ends" in text
    history = [line.split() for line in lines[lines.index("") + 1 :]]
    assert history[0] == ["start", "begun", "where", "steps", "ended"]
    assert [line[0] for line in history[1:]] == ["0", "1", "2"]
    assert "node failure" in text
    assert "then without b" in text
    assert "a, c, d +2" in text
    assert lines[-1].rstrip().endswith("40-43  running")
    assert max(map(len, lines)) <= 80


def test_nothing_starts_a_run_by_hand_again_but_a_person(here, printed):
    told = [started(), ended("told", 40), started(0, 40), started(0, 40), ended("done", 100, code=0)]
    by_hand = [(event, {**fields, "job": job_log.BY_HAND, "slurm": ""}) for event, fields in told]
    run(here / "one", events=by_hand, checkpoint=100)
    lines = printed(lambda console: status.status(["one"], False, console), width=200)
    ends = [line.rstrip().split("  ")[-1] for line in lines[lines.index("") + 2 :]]
    assert [end.strip(" :0123456789") for end in ends] == ["stopped on request", "killed", "done"]


def test_why_a_run_failed_and_where_its_log_is(here, slurm, printed):
    sentence = "rank 1 on b failed at step 7: ValueError: a sentence that is longer than a line of a terminal is wide"
    told = [SUBMITTED, started(), ended("node", 0, 0, 69, excluded=["b"]), requeued(), started(1)]
    folder = run(here / "one", events=[*told, ended("failed", 0, 1, 1)])
    for number, error in enumerate(("b did not pass the health check: its disk is full", f"{sentence}\nTraceback")):
        (folder.jobs / f"12-{number}").mkdir(parents=True)
        (folder.jobs / f"12-{number}" / "error").write_text(f"{error}\n")
    folder.logs.mkdir()
    (folder.logs / "job-12.log").touch()
    lines = printed(lambda console: status.status(["one"], False, console))
    assert lines[-2:] == [f"start 1: {sentence}", "its log is runs/one/logs/job-12.log"]
    folder = run(here / "again", events=told)
    (folder.jobs / "12-0").mkdir(parents=True)
    (folder.jobs / "12-0" / "error").write_text("b did not pass the health check: its disk is full\n")
    slurm[0]["12"] = known("again", "RUNNING")
    lines = printed(lambda console: status.status(["again"], False, console))
    assert lines[-1] == "start 0: b did not pass the health check: its disk is full"


def test_a_missing_slurm_is_reported_once(here, printed):
    for name in ("one", "two"):
        run(here / name, events=[SUBMITTED])
    lines = printed(lambda console: status.status([], False, console), width=200)
    assert [line.split()[1] for line in lines[1:3]] == ["pending", "pending"]
    assert len([line for line in lines if "scontrol: not found" in line]) == 1


def test_another_job_of_the_same_id_is_not_this_runs(here, slurm):
    answers, _ = slurm
    folder = run(here / "old", events=[SUBMITTED, started(), ended("failed", 0, code=1)])
    answers["12"] = known("another", "RUNNING", fields={"StdOut": "/elsewhere/logs/job-12.log"})
    assert run_status.read_status(folder, run_events.JobSchedulers()).state.name == "failed"
    answers["12"] = known("another", "RUNNING", fields={"StdOut": f"{folder.path}/logs/job-12.log"})
    assert run_status.read_status(folder, run_events.JobSchedulers()).state.name == "running"


def test_a_run_with_a_writer_runs(here, monkeypatch):
    folder = run(here / "local", events=[SUBMITTED, started(), ended("failed", 0, code=1)], checkpoint=4)
    with lease.claim(folder.path, ".writer"):
        monkeypatch.setattr(time, "time", time.monotonic)  # later than no file
        one = run_status.read_status(folder, run_events.JobSchedulers())
    assert one.state.name == "running"
    assert one.job == ""  # it was started here since
    assert one.nodes
    assert run_status.read_status(folder, run_events.JobSchedulers()).state.name == "failed"


def test_a_run_that_stopped_early_is_done(here):
    folder = run(here / "early", checkpoint=40, enough=True)
    assert run_status.read_status(folder, run_events.JobSchedulers()).state.name == "done"


def test_damaged_files_do_no_harm(here):
    folder = run(here / "bad", checkpoint=40, loss=1.0)
    folder.plan.write_text("[")
    folder.metrics.write_bytes(folder.metrics.read_bytes() + b'{"step": 99, "lo')
    folder.job_log.write_text('{"event": "sta')
    save(folder, 60)
    (folder.checkpoints / "step-00000060" / "state.json").write_text("{")
    one = run_status.read_status(folder, run_events.JobSchedulers())
    assert (one.state.name, one.step, one.steps, one.loss) == ("stopped", 60, None, 1.0)


def test_the_command(here):
    asked = CliRunner().invoke(cli.app, ["status"])
    assert asked.exit_code == 0
    assert "no run is in runs/" in asked.output
    run(here / "local", checkpoint=40, loss=2.0)
    for words in (["status"], ["status", "local"], ["status", "runs/local"]):
        asked = CliRunner().invoke(cli.app, words)
        assert asked.exit_code == 0
        assert "40" in asked.output
    (one,) = json.loads(CliRunner().invoke(cli.app, ["status", "--json"]).output)
    assert (one["name"], one["state"]["name"], one["step"], one["steps"], one["loss"]) == (
        "local",
        "stopped",
        40,
        100,
        2.0,
    )
    asked = CliRunner().invoke(cli.app, ["status", "nowhere"])
    assert isinstance(asked.exception, UserError)
