"""From how each node ended to how the start did."""

import signal

import pytest

from launcher.distributed.signals import StopReason
from launcher.launch import job_outcome


def end(code=0, reason=StopReason.NONE, problems=(), failed=None, closed=False):
    return {"code": code, "reason": int(reason), "problems": list(problems), "failed": failed, "closed": closed}


def failed(text="boom", echo=False, time=1, code=1):
    return {"rank": 0, "code": code, "echo": echo, "time": time, "text": text}


def concluded(*ends, hosts=("a", "b"), least=2, before=0, after=5, late=False):
    there = {host: how for host, how in zip(hosts, ends, strict=True) if how is not None}
    return job_outcome.of(hosts, there, least, before, after, late)


def test_all_steps_are_done():
    assert concluded(end(), end()) == job_outcome.JobOutcome(0, "done")
    assert concluded(end(), end(closed=True), least=1).why == "done"  # a spare node that was not needed
    assert concluded(end(), None, least=1).why == "done"  # a node that was lost on the way


@pytest.mark.parametrize(
    "reason, code, why, again", [(StopReason.MAKE_WAY, 75, "time", True), (StopReason.STOP, 75, "told", False)]
)
def test_the_stop_reason_decides_whether_a_job_starts_again(reason, code, why, again):
    found = concluded(end(75, reason), end(75, reason))
    assert (found.code, found.why, found.restart) == (code, why, again)


def test_a_stop_counts_more_than_making_way():
    assert concluded(end(75, StopReason.MAKE_WAY), end(75, StopReason.STOP)).why == "told"


def test_a_start_that_saves_nothing_does_not_start_again_for_ever():
    ends = end(75, StopReason.MAKE_WAY), end(75, StopReason.MAKE_WAY)
    found = concluded(*ends, before=5, after=5, late=True)
    assert (found.code, found.restart) == (1, False)
    assert found.text == "it was time to leave before a step was saved"
    advised = job_outcome.of(("a",), {"a": ends[0]}, 1, 5, 5, True, "its limit is too short")
    assert advised.text == f"{found.text}: its limit is too short"
    assert concluded(*ends, before=5, after=5).restart  # it made way for another job, and its own turn comes


def test_a_start_that_is_stopped_while_the_nodes_meet():
    assert job_outcome.stopped_early(StopReason.MAKE_WAY) == job_outcome.JobOutcome(75, "time", restart=True)
    assert job_outcome.stopped_early(StopReason.STOP) == job_outcome.JobOutcome(75, "told")


def test_the_cause_is_reported_not_its_echoes():
    echo = end(1, failed=failed("lost a peer", echo=True, time=1))
    assert concluded(echo, end(1, failed=failed("rank 3 failed", time=2))) == job_outcome.JobOutcome(
        1, "failed", text="rank 3 failed"
    )


def test_a_lost_node_is_a_node_failure():
    for how in (
        end(1, failed=failed(echo=True)),
        end(75, StopReason.MAKE_WAY),
        end(1, failed=failed(code=-signal.SIGTERM)),
    ):
        found = concluded(how, None)
        assert (found.code, found.why, found.restart, found.text.split(":")[0]) == (69, "node", True, "b is lost")
    assert concluded(end(75, StopReason.STOP), None).why == "told"
    assert concluded(end(75, StopReason.MAKE_WAY), None, least=1).why == "time"


def test_ranks_that_lost_each_other():
    found = concluded(end(1, failed=failed("x", echo=True)), end(1, failed=failed("y", echo=True)))
    assert (found.code, found.why, found.restart) == (69, "node", True)


def test_ranks_that_never_reached_each_other_do_not_start_again_for_ever():
    echo = end(1, failed=failed("gloo: no such interface", echo=True))
    found = concluded(echo, echo, before=5, after=5)
    assert (found.code, found.why, found.restart) == (69, "node", False)
    assert concluded(echo, None, before=5, after=5).restart  # there a node is lost


def test_a_mistake_of_the_user_is_reported_unchanged():
    wrong = end(2, problems=["recipe.yaml:3: no"])
    assert concluded(wrong, wrong) == job_outcome.JobOutcome(2, "failed", text="recipe.yaml:3: no")


def test_a_replaced_start_does_not_start_again():
    ghost = end(1, StopReason.REPLACED, problems=["another start has taken over"])
    assert concluded(ghost, None) == job_outcome.JobOutcome(1, "replaced", text="another start has taken over")


def test_unhealthy_nodes_are_left_out_unless_they_are_half():
    few = job_outcome.unhealthy(("a", "b", "c"), {"c": "no name"})
    assert (few.code, few.restart, few.excluded) == (69, True, ("c",))
    assert few.text == "c did not pass the health check: no name"
    half = job_outcome.unhealthy(("a", "b"), {"b": "no name"})
    assert (half.restart, half.excluded) == (False, ())
