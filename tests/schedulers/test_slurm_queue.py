"""Parsing of Slurm's output, and the errors of a machine without Slurm."""

import pytest

from launcher.config.errors import UserError
from launcher.schedulers import _slurm_queue as slurm_queue
from launcher.schedulers import slurm

RUNNING = """JobId=11 ArrayJobId=10 ArrayTaskId=1 JobName=a JobState=BAR b
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   Priority=4294901754 Nice=0 Account=(null) QOS=(null)
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=2 BatchFlag=1 Reboot=0 ExitCode=0:0
   RunTime=00:00:02 TimeLimit=00:10:00 TimeMin=N/A
   SubmitTime=1795353697 EligibleTime=1795353697
   AccrueTime=Unknown
   StartTime=1795353697 EndTime=1795354297 Deadline=N/A
   PreemptEligibleTime=1795353697 PreemptTime=None
   SuspendTime=None SecsPreSuspend=0 LastSchedEval=1795353697 Scheduler=Backfill
   Partition=lab AllocNode:Sid=localhost:8591
   ReqNodeList=(null) ExcNodeList=(null)
   NodeList=n1-[1-2]
   BatchHost=n1-1
   NumNodes=2 NumCPUs=2 NumTasks=2 CPUs/Task=1 ReqB:S:C:T=0:0:*:*
   TRES=cpu=2,mem=20M,node=2,billing=2
   Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=*
   OverSubscribe=OK Contiguous=0 Licenses=(null) Network=(null)
   Command=/w/g JobState=X.sbatch
   WorkDir=/w/a b
   Comment=x JobState=FOO 
   StdErr=/w/slurm-10_1.out
   StdIn=/dev/null
   StdOut=/w/slurm-10_1.out
   Power=
   

"""
PENDING = """JobId=12 JobName=quickstart
   UserId=me(1000) GroupId=me(1000) MCS_label=N/A
   JobState=PENDING Reason=Resources Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0
   SubmitTime=2026-11-22T13:11:56 EligibleTime=2026-11-22T13:11:56
   StartTime=Unknown EndTime=Unknown Deadline=N/A
   NodeList=
"""
ENDED = """JobId=12 JobName=quickstart
   JobState=FAILED Reason=NonZeroExitCode Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=75:9
   PreemptEligibleTime=1795353600 PreemptTime=1795353697
   NodeList=n1-1
"""


def test_a_job_with_any_name_and_paths_is_parsed():
    (job,) = slurm_queue.parse(RUNNING)
    assert (job.id, job.name, job.state, job.reason) == ("10_1", "a JobState=BAR b", "RUNNING", "")
    assert (job.nodes, job.restarts, job.code, job.alive) == ("n1-[1-2]", 2, 0, True)
    assert (job.submitted, job.start, job.end, job.preempted) == (1795353697, 1795353697, 1795354297, None)
    assert job.fields["Command"] == "/w/g JobState=X.sbatch"
    assert job.fields["WorkDir"] == "/w/a b"


def test_waiting_and_ended_jobs_are_parsed():
    waiting, ended = slurm_queue.parse(PENDING + "\n" + ENDED)
    assert (waiting.state, waiting.reason, waiting.nodes, waiting.start) == ("PENDING", "Resources", "", None)
    assert waiting.alive
    assert waiting.submitted > 1.7e9
    assert (ended.state, ended.code, ended.signal, ended.preempted) == ("FAILED", 75, 9, 1795353697)
    assert not ended.alive


def test_empty_output_has_no_jobs():
    assert slurm_queue.parse("") == []
    assert slurm_queue.parse("No jobs in the system\n") == []
    assert slurm_queue.parse_accounted("") == []


def test_accounting_is_parsed():
    cancelled = "12|CANCELLED by 1000|0:15|n1-[1-2]|1795353600|1795353605|1795353700|a|b\n"
    first, second = slurm_queue.parse_accounted(cancelled + "13|PENDING|0:0|None assigned|1|Unknown|Unknown|c\n")
    assert (first.id, first.name, first.state, first.nodes) == ("12", "a|b", "CANCELLED", "n1-[1-2]")
    assert (first.code, first.signal, first.end) == (0, 15, 1795353700)
    assert (second.state, second.nodes, second.start) == ("PENDING", "", None)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: slurm_queue.test(["sbatch"], ""),
        lambda: slurm_queue.submit(["sbatch"]),
        lambda: slurm_queue.job("1"),
        lambda: slurm_queue.cancel(["1"]),
    ],
)
def test_a_machine_without_slurm_is_reported(ask, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(slurm_queue.SlurmMissing, match=r"^s\w+: not found: .* \(run this where Slurm's commands are"):
        ask()


def _tool(folder, name, text):
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_a_slurm_that_does_not_answer_is_reported(monkeypatch, tmp_path):
    _tool(tmp_path, "scontrol", "exec sleep 60")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(slurm_queue, "QUERY_TIMEOUT", 0.3)
    with pytest.raises(slurm_queue.SlurmTimeout, match="took longer"):
        slurm_queue.job("1")
    _tool(tmp_path, "scontrol", "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1")
    with pytest.raises(slurm_queue.SlurmTimeout, match="Unable to contact slurm controller"):
        slurm_queue.job("1")


def test_a_command_that_cannot_be_run_is_reported(monkeypatch, tmp_path):
    (tmp_path / "scontrol").write_text("no program")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="cannot be run"):
        slurm_queue.job("1")


def test_a_job_inherits_nothing_of_the_job_that_submits_it(monkeypatch, tmp_path):
    _tool(tmp_path, "sbatch", 'echo "7;cluster"; env > "$1"')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("LAUNCHER_JOB", "3")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setenv("LANG", "mine")
    assert slurm_queue.submit(["sbatch", str(tmp_path / "seen")]) == "7"
    seen = (tmp_path / "seen").read_text()
    assert "LANG=mine" in seen
    assert "LAUNCHER_JOB" not in seen
    assert "SLURM_RESTART_COUNT" not in seen


def test_output_that_is_not_utf8_is_shown(monkeypatch, tmp_path):
    _tool(tmp_path, "sbatch", r"printf 'sbatch: error: \377\n' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(slurm_queue.SlurmRefusal) as refused:
        slurm_queue.test(["sbatch"], "")
    assert refused.value.message == "\ufffd"


def test_the_id_of_a_job_that_a_node_is_in():
    config = slurm.Config()
    assert config.job_id({}) == ""
    assert config.job_id({"SLURM_JOB_ID": "12"}) == "12"
    of_array = {"SLURM_JOB_ID": "13", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "1"}
    assert config.job_id(of_array) == "12_1" == slurm.Scheduler(config).task_id("12", 1)
