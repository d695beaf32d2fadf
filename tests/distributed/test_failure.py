import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher.distributed import failure, heartbeat
from launcher.launch import RendezvousSpec, elastic_agent


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


def test_among_several_hosts_that_of_the_rank_is_named_however_it_ended():
    assert failure.sentence(failure.first({2: told(code=-11)}), "n7") == "rank 2 on n7 was killed by SIGSEGV"
    error = failure.first({2: told(message="ValueError: it failed")})
    assert failure.sentence(error, "n7") == "rank 2 on n7 failed: ValueError: it failed"


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


@pytest.mark.parametrize(
    "message",
    [
        "RuntimeError: [/pytorch/third_party/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:7",
        "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting "
        "1800000ms for recv operation to complete",
        "RuntimeError: Gloo connectFullMesh failed with [../third_party/gloo/gloo/transport/tcp/pair.cc:144] no error",
        "DistBackendError: NCCL error in: NCCLUtils.hpp:268, remote process exited or there was a network error, "
        "NCCL version 2.21.5\nncclRemoteError: A call failed possibly due to a network error or a remote process "
        "exiting prematurely.",
        "RuntimeError: Last error:\nNET/IB : Got completion from peer 10.0.0.2<38129> with error 12, opcode 0, len 0",
        "DistBackendError: NCCL error in: NCCLUtils.hpp:317, internal error - please report this issue to the NCCL "
        "developers, NCCL version 2.18.1\nLast error:\nNet : Connection closed by remote peer b<47861>",
        "DistBackendError: [Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=4, OpType=ALLREDUCE, "
        "Timeout(ms)=600000) ran for 600081 milliseconds before timing out.",
        "DistBackendError: NCCL communicator was aborted on rank 0.",
        "DistBackendError: [Rank 1] Work WorkNCCL(SeqNum=1, OpType=ALLREDUCE) timed out in blocking wait.",
        "UnreachablePeer: rank 0 on a has waited 120 s for rank 1 on b to complete the first all-reduce",
    ],
)
def test_the_errors_of_gloo_and_nccl_in_a_rank_that_another_has_left_are_echoes(message):
    assert failure.first({0: told(message=message, time=1), 1: told(message="ValueError: mine", time=2)}).rank == 1


@pytest.mark.parametrize(
    "message",
    [
        "FileNotFoundError: [Errno 2] No such file or directory: '/data/gloo/train.txt'",
        "ModuleNotFoundError: No module named 'my_gloo_tools'",
        "DistBackendError: NCCL error in: NCCLUtils.hpp:268, unhandled cuda error, NCCL version 2.21.5\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'",
    ],
)
def test_an_error_that_only_names_a_library_is_a_cause(message):
    assert not failure.lost_a_peer(message)


@pytest.mark.parametrize(("code", "named"), [(-signal.SIGABRT, 1), (-signal.SIGKILL, 0)])
def test_a_rank_that_nccls_watchdog_has_aborted_waited_for_the_stalled_one(tmp_path, code, named):
    spec = RendezvousSpec(tmp_path)
    heartbeat.create(spec.heartbeats, 2)
    for rank, step in ((0, 3), (1, 2)):
        heartbeat.Heartbeat(spec.heartbeats, rank, rank).beat(heartbeat.Stage.FORWARD, step)
    rows = heartbeat._map(spec.heartbeats, "r+")
    rows[:, 4] -= 3600 * 10**9
    agent = SimpleNamespace(failed=None, logs=failure.RankLogs.now(tmp_path))
    assert elastic_agent._cause({0: told(code=code)}, spec, agent).rank == named


WATCHDOG = (
    "[rank1]:[E1218 20:27:21.433063423 ProcessGroupNCCL.cpp:629] [Rank 1] Watchdog caught collective operation "
    "timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for 600088 "
    "milliseconds before timing out.\nterminate called after throwing an instance of 'c10::DistBackendError'\n"
)


@pytest.fixture
def logs(tmp_path):
    """The logs of a run in which an earlier start has timed out."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank1.log").write_text(WATCHDOG.replace("ALLREDUCE", "BROADCAST"))
    return failure.RankLogs.now(tmp_path / "logs")


def append(logs, text):
    with (logs.folder / "rank1.log").open("a") as file:
        file.write(text)


def test_a_rank_that_nccls_watchdog_has_aborted_is_reported_as_a_timeout_and_never_as_the_first_cause(logs):
    append(logs, f"before\n{WATCHDOG}frame #0\n")
    aborted = told(code=-signal.SIGABRT, time=1)
    (logs.folder.parent / "logs" / "nccl_trace_rank_1").touch()
    found = failure.first({1: aborted}, logs)
    assert found.echo and found.gave_up
    assert failure.report(found, logs.folder, None).splitlines() == [
        "rank 1 was aborted: NCCL's watchdog caught collective operation timeout: its ALLREDUCE waited 600 s for "
        "another rank (cluster.timeout); no checkpoint had been made yet",
        f"  its log: {logs.folder / 'rank1.log'}",
        f"  its last collectives: {logs.folder / 'nccl_trace_rank_1'} (torchfrtrace reads them)",
    ]
    assert failure.first({1: aborted, 2: told(message="ValueError: mine", time=9)}, logs).rank == 2


def test_a_rank_that_was_aborted_because_of_its_device_is_the_cause(logs):
    append(logs, "terminate called\n  what():  CUDA error: uncorrectable ECC error encountered\nSearch for\n")
    found = failure.first({1: told(code=-signal.SIGABRT)}, logs)
    assert failure.sentence(found) == "rank 1 was aborted: CUDA error: uncorrectable ECC error encountered"
    assert not found.echo and not found.gave_up


def test_what_an_earlier_start_has_logged_explains_nothing(logs):
    found = failure.first({1: told(code=-signal.SIGABRT)}, logs)
    assert failure.sentence(found).startswith("rank 1 was killed by SIGABRT (under CUDA often NCCL's watchdog after")
    assert failure.RankLogs.now(logs.folder / "nowhere").cause(1) == ""
