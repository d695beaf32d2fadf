"""A run's job is cancelled on a real Slurm, and status tells what has become of it."""

import json
import threading

import pytest
from rich.console import Console
from support import job_stories

from launcher.config.errors import UserError
from launcher.storage import job_log
from launcher.tools import cancel
from launcher.tools.status import run_events, run_status, status

SAVES = """#!/bin/bash
#SBATCH --open-mode=append
trap 'echo saving; sleep 2; echo saved; exit 75' TERM
echo started
sleep 300 & wait
"""


@pytest.fixture
def here(lab, monkeypatch, tmp_path):
    """A folder for runs, where Slurm's commands speak to the lab."""
    for name, value in lab.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


IN_A_STEP = """#!/bin/bash
srun bash -c "trap 'exit 75' TERM; echo started; sleep 300 & wait"
"""


def submitted(lab, here, script=SAVES, *options):
    """A run that was submitted, with a script in the place of training."""
    folder = job_stories.run(here / "one", checkpoint=40)
    (folder.path / "logs").mkdir()
    log = f"--output={folder.path}/logs/job-%j.log"
    id = lab.sbatch(script, log, "--job-name=one", "--mem=10", "--nodes=1", *options)
    job_log.append(folder, {"event": "submitted", "job": id, "cluster": "big", "script": "none"})
    return folder, id


def begin(folder, id, **fields):
    told = {"event": "started", "job": id, "start": 0, "slurm": id, "nodes": ["x"], "ranks": 2, "step": 40, **fields}
    job_log.append(folder, told)


def at(folder):
    found = run_status.read_status(folder, run_events.JobSchedulers()).state
    return found.name, found.reason


def events(folder):
    return [event["event"] for event in job_log.read(folder)]


def test_a_waiting_job(lab, here, capsys):
    folder, id = submitted(lab, here, SAVES, "--hold")
    assert at(folder) == ("pending", "JobHeldUser")
    cancel.cancel("one", Console(width=200))
    assert capsys.readouterr().out.splitlines()[0] == f"job {id} is cancelled: it was waiting"
    assert lab.over(id)["JobState"] == "CANCELLED"
    assert at(folder) == ("cancelled", "")
    assert events(folder) == ["submitted", "cancelled"]
    with pytest.raises(UserError, match=rf"^runs/one: job {id} is over already: cancelled$"):
        cancel.cancel("one", Console())


def test_a_running_job_saves_leaves_and_stays_away(lab, here, capsys):
    folder, id = submitted(lab, here)
    lab.wait_log(id, "started")
    begin(folder, id)
    node = lab.job(id)["NodeList"]
    one = run_status.read_status(folder, run_events.JobSchedulers())
    assert (one.state.name, one.nodes, one.id, one.requeues) == ("running", (node,), id, 0)
    cancel.cancel(str(folder.path), Console(width=200))
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"job {id} is cancelled: it was running on {node}",
        "it saves a checkpoint and leaves: this waits for it, 60 s at the most",
    ]
    assert lab.job(id)["JobState"] == "CANCELLED"
    assert lab.log(id).splitlines()[-1] == "saved"
    assert at(folder) == ("cancelled", "")


def test_a_job_that_requeues_itself_meanwhile_is_cancelled_all_the_same(lab, here):
    requeues = SAVES.replace("echo saved;", "scontrol requeue $SLURM_JOB_ID;")
    folder, id = submitted(lab, here, requeues)
    lab.wait_log(id, "started")
    begin(folder, id)
    cancel.cancel("one", Console())
    assert lab.job(id)["JobState"] == "CANCELLED"
    assert at(folder)[0] == "cancelled"


def test_a_job_that_was_requeued_and_waits_is_cancelled(lab, here):
    folder, id = submitted(lab, here)
    lab.wait_log(id, "started")
    begin(folder, id)
    lab.run("scontrol", "requeue", id)
    lab.wait(id, "PENDING")
    assert at(folder) == ("requeued", "BeginTime")
    cancel.cancel("one", Console())
    assert lab.over(id)["JobState"] == "CANCELLED"


def test_a_job_and_the_one_that_is_chained_to_it_are_cancelled(lab, here):
    folder, id = submitted(lab, here)
    lab.wait_log(id, "started")
    begin(folder, id)
    log = f"--output={folder.path}/logs/job-%j.log"
    chained = lab.sbatch(SAVES, log, "--job-name=one", "--mem=10", f"--dependency=afterany:{id}")
    job_log.append(folder, {"event": "requeued", "job": id, "start": 0, "how": "chain", "next": chained})
    cancel.cancel("one", Console())
    assert [lab.over(one)["JobState"] for one in (id, chained)] == ["CANCELLED", "CANCELLED"]
    assert at(folder)[0] == "cancelled"


def test_a_job_that_is_chained_at_the_last_moment_is_cancelled(lab, here):
    folder, id = submitted(lab, here)
    lab.wait_log(id, "started")
    begin(folder, id)
    working = threading.Thread(target=cancel.cancel, args=("one", Console()))
    working.start()
    lab.wait(id, "COMPLETING")
    log = f"--output={folder.path}/logs/job-%j.log"
    chained = lab.sbatch(SAVES, log, "--job-name=one", "--mem=10", f"--dependency=afterany:{id}")
    job_log.append(folder, {"event": "requeued", "job": id, "start": 0, "how": "chain", "next": chained})
    working.join()
    assert lab.over(chained)["JobState"] == "CANCELLED"


def test_one_task_of_an_array_is_cancelled(lab, here):
    folder = job_stories.run(here / "one-1")
    log = f"--output={here}/one-1/job-%A_%a.log"
    id = lab.sbatch(SAVES, "--array=0-1", "--mem=10", "--job-name=one", log)
    job_log.append(folder, {"event": "submitted", "job": f"{id}_1", "cluster": "big", "script": "none"})
    lab.wait(f"{id}_0", "RUNNING")
    cancel.cancel("one-1", Console())
    assert lab.over(f"{id}_1")["JobState"] == "CANCELLED"
    assert lab.job(f"{id}_0")["JobState"] == "RUNNING"


def test_a_job_of_another_run_is_let_alone(lab, here):
    folder, id = submitted(lab, here, SAVES, "--output=/dev/null", "--job-name=another")
    lab.wait(id, "RUNNING")
    with pytest.raises(UserError, match="is over already"):
        cancel.cancel("one", Console())
    assert lab.job(id)["JobState"] == "RUNNING"
    assert events(folder) == ["submitted"]


def test_runs_that_are_no_jobs(here):
    job_stories.run(here / "local", checkpoint=3)
    with pytest.raises(UserError, match="it is no job"):
        cancel.cancel("local", Console())
    with pytest.raises(UserError, match="no run is there"):
        cancel.cancel("nowhere", Console())


@pytest.mark.parametrize(
    ("partition", "script", "state"),
    [
        ("lab", "exit 1", ("failed", "exit code 1")),
        ("lab", "kill -9 $$", ("failed", "killed by signal 9")),
        ("spare", IN_A_STEP, ("preempted", "")),
    ],
)
def test_how_a_job_that_told_nothing_ended(lab, here, partition, script, state):
    folder, id = submitted(lab, here, script, f"--partition={partition}")
    if partition == "spare":
        lab.wait_log(id, "started")
        lab.sbatch("sleep 60", "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null")
    lab.over(id)
    assert at(folder) == state


def test_a_job_that_lost_its_node_is_requeued_with_its_history(lab, here, capsys):
    folder, id = submitted(lab, here)
    lab.wait_log(id, "started")
    node = lab.job(id)["NodeList"]
    begin(folder, id, nodes=[node])
    lab.crash(node)
    lab.down(node)
    lab.wait(id, "PENDING")
    status.status(["one"], True, Console())
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["state"]["name"], one["id"]) == ("requeued", id)
    assert one["starts"][0]["nodes"] == [node]
