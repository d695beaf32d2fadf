"""A stop in the middle of an evaluation: all ranks leave soon, and the evaluation is done again after the resume."""

import pytest
import support
from support import ranks

from launcher.distributed.exit_codes import DONE, STOPPED
from launcher.storage.run_dir import RunDir, over


def train(process, folder, at=None):
    """Train on from the newest checkpoint. Rank 1 is asked to stop while it evaluates after step `at`. Returns the exit
    code, and the number of micro-batches in that evaluation."""
    from launcher import rank_training
    from launcher.distributed.heartbeat import Heartbeat, Stage
    from launcher.distributed.signals import StopReason
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.train import evaluation

    stop, heartbeat, computed = StopMonitor(), Heartbeat(), []

    def requested():
        evaluates = heartbeat.position.stage is Stage.EVALUATING and heartbeat.position.step == at
        return StopReason.STOP if evaluates and process.rank == 1 else StopReason.NONE

    def padding_is_known(batch, known=evaluation.padding_is_known):
        computed.append(heartbeat.position.step)
        return known(batch)

    stop.requested = requested
    evaluation.padding_is_known = padding_is_known
    return rank_training.train(folder, process, stop, heartbeat), computed.count(at)


@pytest.mark.parametrize("at", [pytest.param(0, marks=pytest.mark.soak), 4, 6])
def test_an_evaluation_is_left_and_done_again(workspace, at):
    """4 s each: at the start, between two steps, and after the last step, where nothing else is left to do."""
    evaluate = {"every": 2, "at_start": True, "save_best": True}
    recipe = support.small("held", data__validation={"fraction": 0.4}, data__train__rows=1000, evaluate=evaluate,
                           checkpoint={"every": 3, "keep": 9}, train__precision="fp64")  # fmt: skip
    recipe["evaluate"]["metric"] = "mse"
    held = ranks.ready(support.write(recipe))
    whole = ranks.ready(support.write(recipe), "name=whole")
    assert [code for code, _ in ranks.on_ranks(2, train, whole)] == [DONE, DONE]
    ended = ranks.on_ranks(2, train, held, at)
    assert [code for code, _ in ended] == [STOPPED, STOPPED]
    assert ended[0][1] == ended[1][1] == 1  # of many
    saved = RunDir(held).whole()[-1]
    assert (saved.step, saved.state["evaluation_due"], over(saved, 6)) == (at, True, None)
    assert [code for code, _ in ranks.on_ranks(2, train, held)] == [DONE, DONE]
    assert len(support.evaluations(held)) == 4
    assert support.evaluations(held) == support.evaluations(whole)
    assert [(r["data"], r["loss"]) for r in support.steps(held).values()] == [
        (r["data"], r["loss"]) for r in support.steps(whole).values()
    ]
    last, other = RunDir(held).whole()[-1], RunDir(whole).whole()[-1]
    assert last.state["evaluation"] == other.state["evaluation"]
    assert last.state["history"] == other.state["history"]
    assert over(last, 6) is not None
    assert support.tensors(last.path) == support.tensors(other.path)


def test_the_ranks_exchange_about_once_a_second():
    from unittest.mock import patch

    from launcher.distributed.stop_requests import StopMonitor
    from launcher.train import evaluation_stop

    class Process:
        exchanges = 0

        def all_gather(self, record):
            Process.exchanges += 1
            return record[None]

    clock = [0.0]

    def parts():
        for _ in range(1000):
            clock[0] += 0.01
            yield None

    with patch.object(evaluation_stop.time, "monotonic", lambda: clock[0]):
        assert len(list(evaluation_stop.until_stop(parts(), Process(), StopMonitor()))) == 1000
    assert 10 <= Process.exchanges <= 17
