"""The reduction of events to a status, without any file."""

from pathlib import Path

import pytest

from launcher.schedulers import JobState
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir
from launcher.tools.status.run_events import (
    CheckpointSaved,
    FileDamaged,
    JobLogged,
    JobReported,
    LastFileWrite,
    Planned,
    SchedulerUnreachable,
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
