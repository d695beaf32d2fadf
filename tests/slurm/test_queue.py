"""Slurm's commands, asked for real."""

import time

import pytest

from launcher.schedulers import _slurm_queue as slurm_queue

WAITS = "#!/bin/bash\nsleep 300\n"


@pytest.fixture
def slurm_here(lab, monkeypatch):
    for name, value in lab.env.items():
        monkeypatch.setenv(name, value)
    return lab


def submit(tmp_path, text, *options):
    script = tmp_path / "job.sbatch"
    script.write_text(text)
    return slurm_queue.submit(
        ["sbatch", "--parsable", "--mem=10", f"--output={tmp_path}/%j.log", *options, str(script)]
    )


def test_a_job_from_submission_to_its_end(slurm_here, tmp_path):
    before = time.time()
    name = 'a b" JobState=X $(id)'
    id = submit(tmp_path, "#!/bin/bash\nexit 3\n", f"--job-name={name}", "--comment=Reason=None NodeList=no")
    ended = slurm_here.over(id)
    job = slurm_queue.job(id)
    assert (job.id, job.name, job.state, job.code, job.nodes) == (id, name, "FAILED", 3, ended["NodeList"])
    assert before - 2 < job.submitted <= job.start <= job.end < time.time() + 2
    assert not job.alive


def test_why_a_job_waits(slurm_here, tmp_path):
    id = submit(tmp_path, WAITS, "--hold")
    assert (slurm_queue.job(id).state, slurm_queue.job(id).reason) == ("PENDING", "JobHeldUser")
    slurm_queue.cancel([id])
    assert slurm_here.over(id)["JobState"] == "CANCELLED"
    assert slurm_queue.job(id).state == "CANCELLED"


def test_a_task_of_an_array_is_asked_for_and_cancelled_alone(slurm_here, tmp_path):
    id = submit(tmp_path, WAITS, "--array=0-1")
    for place in (0, 1):
        slurm_here.wait(f"{id}_{place}", "RUNNING")
    slurm_queue.cancel([f"{id}_1"])
    slurm_here.over(f"{id}_1")
    known = {name: slurm_queue.job(name) for name in (f"{id}_0", f"{id}_1")}
    assert {name: job.state for name, job in known.items()} == {f"{id}_0": "RUNNING", f"{id}_1": "CANCELLED"}
    assert [job.id for job in known.values()] == list(known)


def test_slurm_says_when_a_job_would_start_and_takes_nothing(slurm_here, tmp_path):
    assert "to start at" in slurm_queue.test(["sbatch", "--test-only", "--nodes=2"], WAITS)
    assert slurm_here.run("squeue", "--noheader") == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--partition=nowhere"], "invalid partition specified: nowhere"),
        (["--partition=physics", "--account=chemistry"], "Invalid account or account/partition combination"),
        (["--gres=gpu:9"], "Requested node configuration is not available"),
        (["--partition=short", "--time=10"], "Requested time limit is invalid"),
        (["--time=soon"], "Invalid --time specification"),
    ],
)
def test_slurms_own_words_are_shown_where_it_refuses(slurm_here, options, said):
    with pytest.raises(slurm_queue.SlurmRefusal) as refused:
        slurm_queue.test(["sbatch", "--test-only", *options], WAITS)
    assert said in refused.value.message
    assert not refused.value.message.startswith("sbatch:")


def test_a_job_that_slurm_does_not_know(slurm_here):
    assert slurm_queue.job("99999") is None
    slurm_queue.cancel(["99999"])  # Slurm says nothing of it
    with pytest.raises(slurm_queue.SlurmRefusal, match="Invalid job id nonsense"):
        slurm_queue.cancel(["nonsense"])
