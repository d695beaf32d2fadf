"""The first node of a job is lost, where the batch shell is, or the agent on it alone, which decides what follows."""

import os
import signal
from pathlib import Path

import pytest
import support
from support.submitted_run import Submitted, profile, slow

SOAK = pytest.mark.soak  # another way to the same end, which a test of the script holds in seconds


def lose_the_first(lab, run):
    run.at_step(12)
    first = lab.job(run.id)["BatchHost"]
    lab.crash(first)
    return first


def goes_on_from_a_checkpoint(run, steps):
    """A second start did the rest, and both learnt alike what a run that nothing happened to does."""
    said = [record["step"] for record in support.records(run.folder.path) if "loss" in record]
    assert set(said) == set(range(1, steps + 1)) and len(said) < steps + 12


@pytest.mark.parametrize(
    "nodes", [{"nodes": "2:3"}, pytest.param({"nodes": 2, "spares": 1}, marks=SOAK)], ids=["elastic", "spares"]
)
def test_a_job_that_outlives_its_nodes_is_started_again_without_its_first(lab, workspace, nodes):
    profile(**nodes, ranks=1)
    run = Submitted(lab, "first", train__steps=60, **slow(0.1))
    first = lose_the_first(lab, run)
    job = run.over(240)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), run.log()
    assert job["BatchHost"] != first
    assert run.starts() == [(0, ""), (1, "done")]
    goes_on_from_a_checkpoint(run, 60)


@pytest.mark.parametrize("how", ["used up", pytest.param("chain", marks=SOAK), pytest.param("never", marks=SOAK)])
def test_where_it_cannot_be_requeued_its_nodes_are_given_back(lab, workspace, how):
    profile(nodes="2:3", ranks=1, **({} if how == "used up" else {"requeue": how}))
    run = Submitted(lab, "given", *(("--max-requeues", 0) if how == "used up" else ()), train__steps=400, **slow(0.1))
    first = lose_the_first(lab, run)
    job = run.over(60)
    assert (job["JobState"], job["Restarts"]) == ("CANCELLED", "0"), run.log()
    support.wait_for(lambda: all(state == "idle" for node, state in lab.states().items() if node != first), 60)


@pytest.mark.parametrize("nodes", [pytest.param(2, marks=SOAK), "2:3"], ids=["fixed", "elastic"])
def test_where_the_first_agent_alone_is_killed_the_job_comes_back(lab, workspace, nodes):
    profile(nodes=nodes, ranks=1)
    run = Submitted(lab, "killed", train__steps=60, **slow(0.1))
    run.at_step(12)
    for process in lab.pids(lab.job(run.id)["BatchHost"], "launcher.launch.node"):
        if Path(process.argv[0]).name not in ("sh", "srun"):  # the agent alone, not the shell around it
            os.kill(process.pid, signal.SIGKILL)
    job = run.over(240)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), run.log()
    assert run.starts() == [(0, ""), (1, "done")]
    assert not (run.folder.jobs / f"{run.id}-0" / "orphaned").exists()
    assert '"event":"requeued"' in (run.folder.path / "jobs.jsonl").read_text()  # by the batch shell
    goes_on_from_a_checkpoint(run, 60)
