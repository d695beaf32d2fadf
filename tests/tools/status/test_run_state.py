"""The state of a run from Slurm, the job log and the run folder."""

import pytest
from support.job_stories import CANCELLED, NOW, SUBMITTED, ended, requeued, started

from launcher.schedulers import _slurm_queue as slurm_queue
from launcher.schedulers.slurm import job_state
from launcher.storage import job_log
from launcher.tools.status import run_state


def story(*events):
    lines = [{"event": event, "job": "12", "time": NOW + 60 * n, **fields} for n, (event, fields) in enumerate(events)]
    return job_log.story(lines)[0] if lines else None


def slurm(name, **known):
    return job_state(slurm_queue.Job("12", "run", name, start=NOW + 60, **known))


def of(job, known=None, reachable=True, alive=False, finished=False):
    return run_state.derive(job, known, reachable=reachable, alive=alive, finished=finished)


BEGUN = (SUBMITTED, started())
TIME = (*BEGUN, ended("time", 40))
LAUNCH = "Slurm could not start its script: look for its log's folder on the nodes"
TOLD = (*BEGUN, ended("told", 40))


@pytest.mark.parametrize(
    ("events", "known", "name", "reason"),
    [
        ((SUBMITTED,), slurm("PENDING", reason="Resources"), "pending", "Resources"),
        ((SUBMITTED,), slurm("RUNNING"), "running", "starting"),
        (BEGUN, slurm("RUNNING"), "running", ""),
        (BEGUN, slurm("PENDING", reason="BeginTime", restarts=1), "requeued", "BeginTime"),
        (TIME, slurm("COMPLETING", restarts=1), "requeued", "leaving"),
        ((*TIME, requeued()), slurm("PENDING", restarts=1), "requeued", ""),
        ((*TIME, requeued(), started(1, 40)), slurm("RUNNING", restarts=1), "running", ""),
        (TIME, slurm("RUNNING"), "running", "leaving"),
        ((*TIME, requeued()), slurm("RUNNING", restarts=1), "running", "starting"),
        ((*TIME, requeued(how="chain", next="13")), slurm("RUNNING"), "running", "starting"),
        ((*TIME, requeued(how="chain", next="13"), started(1000, 40)), slurm("RUNNING"), "running", ""),
        (TOLD, slurm("COMPLETING"), "stopped", "leaving"),
        (TOLD, slurm("CANCELLED", code=75), "cancelled", ""),
        ((*BEGUN, CANCELLED), slurm("COMPLETING"), "cancelled", "leaving"),
        ((*BEGUN, CANCELLED, ended("told", 40)), None, "cancelled", ""),
        (BEGUN, slurm("CANCELLED"), "cancelled", ""),
        (TOLD, slurm("FAILED", code=75), "stopped", ""),
        (TOLD, slurm("FAILED", code=75, preempted=NOW), "preempted", ""),
        (TOLD, slurm("PREEMPTED"), "preempted", ""),
        (TIME, slurm("TIMEOUT"), "time over", ""),
        (TIME, slurm("FAILED", code=75), "made way", ""),
        (TIME, slurm("COMPLETING"), "made way", "leaving"),
        (TIME, None, "made way", ""),
        (BEGUN, slurm("TIMEOUT"), "time over", ""),
        (BEGUN, slurm("NODE_FAIL"), "node lost", ""),
        (BEGUN, slurm("OUT_OF_MEMORY"), "failed", "out of memory"),
        (BEGUN, slurm("FAILED", signal=9), "failed", "killed by signal 9"),
        (BEGUN, slurm("FAILED", code=2), "failed", "exit code 2"),
        ((SUBMITTED,), slurm("FAILED", signal=53, reason="JobLaunchFailure"), "failed", LAUNCH),
        ((SUBMITTED,), slurm("COMPLETED", code=0), "failed", "it never began to train"),
        ((*BEGUN, ended("failed", 40, code=1)), slurm("FAILED", code=1), "failed", ""),
        ((*BEGUN, ended("failed", 40, code=1)), slurm("CANCELLED"), "failed", ""),
        ((*BEGUN, ended("node", 0, code=69, excluded=["b"])), slurm("FAILED"), "node lost", "without b"),
        ((*BEGUN, ended("replaced", 40, code=1)), None, "replaced", ""),
        ((*BEGUN, ended("done", 100, code=0)), slurm("COMPLETED"), "done", ""),
        ((SUBMITTED,), None, "failed", "its scheduler does not know of it any more"),
        (BEGUN, None, "node lost", "its end was not recorded"),
    ],
)
def test_a_job(events, known, name, reason):
    found = of(story(*events), known)
    assert (found.name, found.reason) == (name, reason)


@pytest.mark.parametrize(
    ("events", "name"),
    [((SUBMITTED,), "pending"), (TIME, "made way"), ((*TIME, requeued()), "requeued"), (TOLD, "stopped")],
)
def test_a_job_while_slurm_does_not_answer(events, name):
    assert of(story(*events), reachable=False).name == name


def test_a_run_without_a_job():
    assert of(None).name == "stopped"
    assert of(None, finished=True).name == "done"
    assert of(None, alive=True).name == "running"
    assert of(None, alive=True, finished=True).name == "running"  # the last step is taken, the last evaluation is not


def test_a_run_with_a_living_writer_runs():
    assert of(story(*BEGUN), alive=True, reachable=False).name == "running"
    assert of(story(*BEGUN), alive=True).since == NOW + 60


def test_how_each_start_ended():
    job = story(
        SUBMITTED, started(0), ended("time", 40), requeued(), started(1, 40), ended("told", 50, 1), started(2, 50),
        started(3, 50), ended("node", 60, 3), started(4, 60),
    )  # fmt: skip
    words = [
        run_state.describe_end(start, later, of(job, slurm("RUNNING", restarts=4)))
        for start, later in zip(job.starts, [*job.starts[1:], None], strict=True)
    ]
    assert words == [
        "made way", "preempted or requeued", "lost: its end was not recorded", "node failure", "running",
    ]  # fmt: skip
    by_hand = [
        run_state.describe_end(start, job.starts[-1], of(job, slurm("RUNNING")), scheduled=False)
        for start in job.starts[:3]
    ]
    assert by_hand == ["made way", "stopped on request", "killed"], "nothing starts it again but a person"
    alone = story(*TIME)
    assert run_state.describe_end(alone.starts[0], None, of(alone, slurm("FAILED", code=75))) == "made way"
    assert run_state.describe_end(alone.starts[0], None, of(alone, slurm("TIMEOUT"))) == "time over"
    cancelled = story(*BEGUN, CANCELLED, ended("told", 40))
    assert run_state.describe_end(cancelled.starts[0], None, of(cancelled)) == "cancelled"
    failed = story(*BEGUN, ended("failed", 40))
    assert run_state.describe_end(failed.starts[0], None, of(failed)) == "failed"


@pytest.mark.parametrize(
    ("why", "name"), [("done", "done"), ("told", "stopped"), ("time", "made way"), ("failed", "failed"), ("", "killed")]
)
def test_a_start_by_hand(why, name):
    events = [{"event": "started", "job": job_log.BY_HAND, "start": 0, "step": 0}]
    events += [{"event": "ended", "job": job_log.BY_HAND, "start": 0, "why": why}] if why else []
    (job,) = job_log.story(events)
    assert run_state.derive(job, None, reachable=True, alive=False, finished=False).name == name
    assert run_state.derive(job, None, reachable=True, alive=False, finished=True).name == "done"
    assert run_state.derive(job, None, reachable=True, alive=True, finished=False).name == (
        "done" if why == "done" else "running"
    )
