"""Queries while a job leaves, with a stand-in for Slurm. tests/slurm has jobs that run."""

import pytest
from rich.console import Console
from support.job_stories import SUBMITTED, ended, requeued, run, started

from launcher.config.errors import UserError
from launcher.schedulers import _slurm_queue as slurm_queue
from launcher.storage import job_log, lease
from launcher.tools import cancel


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """States of jobs by id, the ids that were queried, and those that were cancelled."""
    known, asked, cancelled = {}, [], []

    def job(id):
        asked.append(id)
        return slurm_queue.Job(id, "one", known.get(id, "COMPLETED"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm_queue, "job", job)
    monkeypatch.setattr(slurm_queue, "cancel", lambda ids: cancelled.append(list(ids)))
    return known, asked, cancelled


def test_only_jobs_of_a_chain_that_may_be_alive_are_queried(slurm, tmp_path, monkeypatch, capsys):
    known, asked, cancelled = slurm
    events = [SUBMITTED, started()]
    for number in range(5):
        events += [ended("time", 0, 1000 * number), requeued(number, "chain", str(13 + number))]
    folder = run(tmp_path / "runs/one", events=events)
    known["17"], pauses = "RUNNING", []

    def sleep(seconds):
        """What happens meanwhile: another is chained, and both end."""
        pauses.append(seconds)
        if len(pauses) == 1:
            job_log.append(folder, {"event": "requeued", "job": "12", "start": 5000, "how": "chain", "next": "18"})
            known.update({"17": "COMPLETING", "18": "PENDING"})
        else:
            known.clear()

    monkeypatch.setattr(cancel.time, "sleep", sleep)
    cancel.cancel("one", Console(width=200))
    assert asked == ["12", "13", "14", "15", "16", "17", "17", "17", "18", "17", "18"]
    assert cancelled == [["17"], ["17"], ["18"]]
    assert pauses == [2.0, 2.0]
    assert capsys.readouterr().out.count("it saves a checkpoint and leaves: this waits for it, 60 s at the most\n") == 1


def test_a_run_that_was_started_here_since_is_not_reported_as_over(slurm, tmp_path):
    folder = run(tmp_path / "runs/one", events=[SUBMITTED, started(), ended("told", 0)])
    with pytest.raises(UserError, match=r"^runs/one: job 12 is over already: stopped$"):
        cancel.cancel("one", Console())
    with (
        lease.claim(folder.path, ".writer"),
        pytest.raises(UserError, match=r"^runs/one: it runs now where it was started \(stop it there, with Ctrl-C\)$"),
    ):
        cancel.cancel("one", Console())
