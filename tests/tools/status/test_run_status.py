"""The reduction of events to a status, without any file."""

from pathlib import Path

import pytest

from launcher.schedulers import JobState
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir
from launcher.tools.status.run_events import (
    CheckpointSaved,
    CopiedToMemory,
    FileDamaged,
    JobLogged,
    JobReported,
    LastFileWrite,
    Planned,
    RanksRestarted,
    SchedulerUnreachable,
    StarterAlive,
    StepTrained,
    WriterAlive,
)
from launcher.tools.status.run_status import reduce_events

FOLDER = RunDir(Path("runs/one"))
WRITTEN = LastFileWrite(5.0, trained=True)
STEPS = [StepTrained(39, 3.0), StepTrained(40, 2.0), StepTrained(43, 1.0)]
SAVED = CheckpointSaved(40, metric="f1", value=0.9)
LOGGED = JobLogged(
    job_log.Job("12", ids=("12",), starts=(job_log.Start(0, begun=1.0, nodes=("a",)),)), "an error", "a log"
)


def test_without_an_event_a_run_is_ready():
    status = reduce_events(FOLDER, [])
    assert (status.name, status.state.name, status.step, status.steps, status.loss) == ("one", "ready", 0, None, None)


@pytest.mark.parametrize(
    ("events", "state", "step", "loss"),
    [
        ([], "stopped", 40, 2.0),
        ([WriterAlive("b")], "running", 43, 1.0),
        ([LOGGED], "node lost", 40, 2.0),
        ([LOGGED, SchedulerUnreachable()], "node lost", 40, 2.0),
        ([LOGGED, JobReported(JobState("12", "running", nodes="c", end=9.0))], "running", 43, 1.0),
    ],
)
def test_steps_after_the_checkpoint_count_only_while_the_run_runs(events, state, step, loss):
    status = reduce_events(FOLDER, [Planned(100), WRITTEN, *STEPS, SAVED, *events])
    assert (status.state.name, status.step, status.steps, status.loss) == (state, step, 100, loss)
    assert (status.metric, status.value, status.checkpoint) == ("f1", 0.9, 40)


def test_a_running_job_has_its_nodes_and_its_limit_from_its_scheduler():
    known = JobState("12", "running", nodes="c[1-2]", end=9.0)
    status = reduce_events(FOLDER, [LOGGED, JobReported(known)])
    assert (status.nodes, status.limit) == (("c1", "c2"), 9.0)
    status = reduce_events(FOLDER, [LOGGED])
    assert (status.nodes, status.limit, status.error, status.log) == (("a",), None, "an error", "a log")
    assert reduce_events(FOLDER, [WriterAlive("b")]).nodes == ("b",)


def test_a_finished_run_is_done_and_damage_is_kept():
    status = reduce_events(FOLDER, [FileDamaged("plan.json: damaged"), WRITTEN, CheckpointSaved(100, finished=True)])
    assert (status.state.name, status.state.since, status.damaged) == ("done", 5.0, ("plan.json: damaged",))


BY_HAND = JobLogged(job_log.Job(job_log.BY_HAND, starts=(job_log.Start(0, begun=1.0),)))


@pytest.mark.parametrize(
    ("events", "step", "copy"), [([], 43, 43), ([WriterAlive("b")], 43, 43), ([CheckpointSaved(100, True)], 100, None)]
)
def test_a_newer_copy_in_memory_is_where_a_run_goes_on(events, step, copy):
    status = reduce_events(FOLDER, [Planned(100), WRITTEN, *STEPS, SAVED, CopiedToMemory(43), BY_HAND, *events])
    assert (status.step, status.memory_copy) == (step, copy)
    assert reduce_events(FOLDER, [Planned(100), *STEPS, SAVED, CopiedToMemory(39), BY_HAND]).memory_copy is None


def test_the_command_is_of_a_run_that_a_person_starts_again():
    plan = Planned(100, "launcher run R")
    assert reduce_events(FOLDER, [plan, SAVED, BY_HAND]).command == "launcher run R"
    assert reduce_events(FOLDER, [plan, SAVED, BY_HAND, WriterAlive("a")]).command == ""
    assert reduce_events(FOLDER, [plan, CheckpointSaved(100, True), BY_HAND]).command == ""


def test_a_run_without_a_rank_runs_while_the_command_that_starts_them_lives():
    status = reduce_events(FOLDER, [Planned(100), *STEPS, SAVED, BY_HAND, StarterAlive("a"), RanksRestarted(2, 1)])
    assert (status.state.name, status.state.reason, status.step) == ("running", "starting", 43)
    assert (status.restarts, status.hangs) == (2, 1)
    left = job_log.Job(job_log.BY_HAND, starts=(job_log.Start(0, begun=1.0, ended=2.0, why="told"),))
    assert reduce_events(FOLDER, [SAVED, JobLogged(left), StarterAlive("a")]).state.name == "stopped"


def test_a_start_over_ssh_is_killed_and_one_of_a_queue_has_lost_its_node():
    start = (job_log.Start(0, begun=1.0),)
    for name, state in (("ssh-1-2", "killed"), ("12", "node lost")):
        job = JobLogged(job_log.Job(name, ids=(name,), starts=start))
        assert reduce_events(FOLDER, [SAVED, job]).state.name == state
    assert reduce_events(FOLDER, [WRITTEN, SAVED, BY_HAND]).state.since == 5.0, "it lived until its last write"


def test_the_time_left_is_by_the_pace_of_the_last_steps():
    steps = [StepTrained(step, 1.0, 10.0 + 2 * step, 0.5) for step in range(1, 41)]
    status = reduce_events(FOLDER, [Planned(100), *steps, WriterAlive("a")])
    assert (status.left, status.goodput) == (120.0, 0.5)
    again = [StepTrained(31, 1.0, 71.0), StepTrained(33, 1.0, 75.0)]
    assert reduce_events(FOLDER, [Planned(100), *steps, again[0], WriterAlive("a")]).left is None, "after a resume"
    assert reduce_events(FOLDER, [Planned(100), *steps, *again, WriterAlive("a")]).left == 134.0
    assert reduce_events(FOLDER, [Planned(100), *steps]).left is None
