"""The sentence that says who waits for whom."""

import pytest

from launcher.distributed import hangs
from launcher.distributed.hangs import STOPPED, RankState
from launcher.distributed.heartbeat import Stage


def state(rank, stage=Stage.AGREEING, step=7, left=0, **more):
    waits = {"collective": "all-gather"} if stage is Stage.AGREEING else {}
    return RankState(rank, step, left, stage, 61.2, **{**waits, **more})


def backward(rank, **more):
    return state(rank, Stage.BACKWARD, opaque=True, where="e.py:1", **more)


WAIT = [state(0), state(1), state(2)]
LEFT_OUT = "rank 1 has left out a collective, and been in the"
STORIES = [
    (
        [*WAIT, state(3, Stage.LOADING, where="reader.py:88")], 3,
        "rank 3 has been in data of step 7 (reader.py:88) for 61 s; ranks 0-2 wait in the all-gather of step 7",
    ),
    (
        [state(0), state(1, Stage.FORWARD, 6, process=STOPPED, where="m.py:5"), state(2)], 1,
        "rank 1 is stopped (by SIGSTOP or a debugger), in forward of step 6 (m.py:5), for 61 s; "
        "ranks 0, 2 wait in the all-gather of step 7",
    ),
    (
        [backward(0), state(1, step=8, where="sync.py:3"), backward(2)], 1,
        f"{LEFT_OUT} all-gather of step 8 (sync.py:3) for 61 s; "
        "ranks 0, 2 wait in the gradient all-reduce of step 7 (e.py:1)",
    ),
    (
        [state(0, Stage.FORWARD, collective="barrier", where="own.py:5"), backward(1)], 1,
        f"{LEFT_OUT} gradient all-reduce of step 7 (e.py:1) for 61 s; rank 0 waits in the barrier of step 7 (own.py:5)",
    ),
    (WAIT, 0, "ranks 0-2 have been in the all-gather of step 7 for 61 s: no data passes between them"),
    (
        [state(0), state(1, Stage.SAVING, 6, process="disk-sleep", host="b"), state(2)], 1,
        "rank 1 on b has been in save of step 6 for 61 s, uninterruptible (a disk or a driver); "
        "ranks 0, 2 wait in the all-gather of step 7",
    ),
    (
        [state(0, Stage.STARTING, 0), state(1, Stage.STARTING, 0, collective="broadcast")], 0,
        "rank 0 has been in startup for 61 s; rank 1 waits in the broadcast of startup",
    ),
    (
        [backward(0, left=-2), backward(1), backward(2)], 0,
        "rank 0 has been in backward of step 7 (e.py:1) for 61 s; ranks 1-2 wait in the gradient all-reduce of step 7 "
        "(e.py:1)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("states", "rank", "sentence"), STORIES)
def test_the_rank_for_which_the_others_wait_is_named(states, rank, sentence):
    found = hangs.explain(states)
    assert (found.rank, found.sentence) == (rank, sentence)


def test_states_survive_as_json():
    assert [RankState.of_json(one.as_json()) for one in WAIT] == WAIT


def test_ranks_are_named_in_ranges():
    assert [hangs.names(ranks) for ranks in ([4], [0, 1, 2, 5], [2, 0])] == ["rank 4", "ranks 0-2, 5", "ranks 0, 2"]
