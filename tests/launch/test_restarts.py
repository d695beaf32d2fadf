"""Failures that return, told from passing ones."""

import signal

import pytest

from launcher.distributed import failure
from launcher.distributed.failure import Failure
from launcher.distributed.heartbeat import Position, Stage
from launcher.launch import RendezvousSpec
from launcher.launch.restarts import Recurrence, RestartLog
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir


def raised(message, step=7, rank=1):
    return Failure(rank, 1, message, f"at step {step}\n", 0)


KILLED = Failure(1, -signal.SIGKILL, "", "", 0)
LOST = Failure(1, 1, "RuntimeError: Connection closed by peer", "", 0)


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([(raised("ValueError: a"), 7, True), (raised("ValueError: a"), 7, True)], ["", "same error"]),
        ([(raised("ValueError: at 0x7f01, 12 MiB"), 7, True), (raised("ValueError: at 0x2b, 9 MiB"), 7, True)],
         ["", "same error"]),
        ([(raised("ValueError: a"), 7, True), (raised("ValueError: a"), 8, True)], ["", ""]),
        ([(raised("ValueError: a"), 7, True), (raised("ValueError: a", rank=0), 7, True)], ["", ""]),
        ([(raised("ValueError: a"), 7, True), (raised("ValueError: b"), 7, True), (raised("ValueError: a"), 7, True)],
         ["", "", ""]),
        ([(KILLED, 7, True), (KILLED, 7, True), (KILLED, 7, True)], ["", "", "same error"]),
        ([(KILLED, 7, True), (KILLED, 7, True), (KILLED, 9, True)], ["", "", ""]),
        ([(LOST, 0, False), (LOST, 0, False), (LOST, 0, False)], ["", "", "same error"]),
        ([(KILLED, 7, False), (LOST, 5, False), (raised("ValueError: a"), 6, False)], ["", "", "no step"]),
        ([(KILLED, 7, True), (LOST, 5, False), (KILLED, 6, True), (LOST, 5, False)], ["", "", "", ""]),
    ],
)  # fmt: skip
def test_a_failure_that_returns_is_told_from_a_passing_one(failures, expected):
    recurrence = Recurrence()
    assert [recurrence.judge(*one).recurs for one in failures] == expected


def test_the_sentence_says_that_a_restart_does_not_help():
    recurrence = Recurrence()
    recurrence.judge(raised("ValueError: a", 1207), 1207, True)
    assert failure.sentence(recurrence.judge(raised("ValueError: a", 1207), 1207, True)) == (
        "rank 1 failed again at step 1207 after a restart, with the same error: ValueError: a; "
        "it will not pass by itself"
    )
    recurrence = Recurrence()
    for _ in range(2):
        recurrence.judge(KILLED, 7, False)
    assert failure.sentence(recurrence.judge(KILLED, 8, False)).endswith(
        ", and two restarts in a row made no step; it will not pass by itself"
    )


def test_ranks_that_build_a_model_anew_after_their_first_step_leave_a_readable_log(tmp_path):
    """As after a spike in the first step of a restart, when no step is theirs."""
    log = RestartLog(RunDir(tmp_path), RendezvousSpec(tmp_path))
    log.restart("failed", KILLED, 7, 1)
    log.begin()
    log.observe([Position(0, 0, Stage.STARTING, rank, 1.0) for rank in range(2)], stepped=True)
    assert [event["step"] for event in job_log.read(RunDir(tmp_path))] == [7, 0]
