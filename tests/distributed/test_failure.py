from pathlib import Path
from types import SimpleNamespace

from launcher.distributed import failure


def told(code=1, message="", traceback="", time=0):
    data = (
        {"message": {"message": message, "extraInfo": {"py_callstack": traceback}}}
        if message
        else {"message": "<NONE>"}
    )
    return SimpleNamespace(exitcode=code, message=message or "Signal", error_file_data=data, timestamp=time)


def test_the_cause_comes_before_those_who_only_lost_a_peer():
    lost = told(message="RuntimeError: [gloo] Connection closed by peer", time=1)
    assert failure.first({0: lost, 1: told(message="ValueError: mine", time=2)}).rank == 1
    assert failure.first({0: lost, 1: told(code=-9, time=2)}).rank == 1
    assert failure.first({0: told(code=-15, time=0), 1: lost}).rank == 1
    assert failure.first({0: told(message="A", time=5), 1: told(message="B", time=4)}).rank == 1


def test_a_killed_rank_is_reported_with_what_to_do():
    found = failure.first({2: told(code=-9)})
    assert failure.report(found, Path("runs/a/logs"), 40) == (
        "rank 2 was killed by SIGKILL (often the system's out-of-memory killer: lower train.max_tokens); start it "
        "again and it goes on from step 40\n  its log: runs/a/logs/rank2.log"
    )


def test_an_error_comes_first_and_its_traceback_after():
    found = failure.first({0: told(message="ValueError: no", traceback="Traceback\nValueError: no\nat step 7\n")})
    lines = failure.report(found, Path("logs"), None).splitlines()
    assert lines[0] == "rank 0 failed at step 7: ValueError: no; no checkpoint had been made yet"
    assert lines[1:3] == ["  its log: logs/rank0.log", "  Traceback"]


def test_a_rank_that_died_without_an_error_file_is_reported_without_torchs_advice():
    nothing = told(message="To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html")
    nothing.error_file_data = {"message": "<NONE>"}
    said = failure.report(failure.first({2: nothing}), Path("logs"), 40)
    assert said == (
        "rank 2 failed: exit code 1 before it could say why (look at what was printed before); start it again and it "
        "goes on from step 40\n  its log: logs/rank2.log"
    )
