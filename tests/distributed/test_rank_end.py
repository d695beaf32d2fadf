from launcher.config.errors import Problem
from launcher.distributed import rank_end
from launcher.distributed.exit_codes import FAILED, INVALID_INPUT
from launcher.distributed.signals import StopReason
from launcher.launch import RanksEnded


def test_the_report_of_a_rank_reaches_the_launcher(tmp_path):
    rank_end.write(tmp_path, 3, FAILED, StopReason.NONE, error=ValueError("no"))
    end = rank_end.read(tmp_path)[3]
    assert (end["code"], end["reason"], end["problems"], end["error"]) == (1, 0, [], "ValueError: no")
    assert end["traceback"] == "ValueError: no\n"


def test_a_mistake_of_the_user_on_one_rank_counts_before_the_failures_of_the_others(tmp_path):
    rank_end.write(tmp_path, 0, FAILED, StopReason.NONE, error=RuntimeError("Connection closed by peer"))
    assert RanksEnded.refused(rank_end.read(tmp_path)) is None
    rank_end.write(tmp_path, 10, INVALID_INPUT, StopReason.NONE, ["later"])
    rank_end.write(tmp_path, 9, INVALID_INPUT, StopReason.NONE, [Problem("task.reward", "no number")])
    assert RanksEnded.refused(rank_end.read(tmp_path)) == RanksEnded(2, problems=["task.reward: no number"])


def test_ranks_whose_run_was_taken_over_report_it_as_such(tmp_path):
    for rank in (0, 1):
        rank_end.write(tmp_path, rank, FAILED, StopReason.REPLACED, ["another start has taken over"])
    ended = RanksEnded.refused(rank_end.read(tmp_path))
    assert ended == RanksEnded(1, StopReason.REPLACED, problems=["another start has taken over"])
