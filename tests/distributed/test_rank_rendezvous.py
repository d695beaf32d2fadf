import json
import socket
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from launcher.config.errors import UserError
from launcher.distributed import rank_rendezvous
from launcher.distributed.launch_env import RankInfo, UnreachablePeer
from launcher.distributed.rendezvous import serve_store
from launcher.distributed.stop_requests import StoppedBeforeTraining


def by_mpi(job="7"):
    return {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3", "PMIX_NAMESPACE": job}


def each(world, function):
    """function(rank) on a thread each; what it returned or raised, by rank."""
    out = [None] * world

    def one(rank):
        try:
            out[rank] = function(rank)
        except Exception as error:
            out[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return out


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("local_world", [3, 1])
def test_ranks_that_share_a_folder_meet_and_leave_nothing_there(local_world):
    def one(rank):
        time.sleep(0.3 * (rank == 0))
        return rank_rendezvous.join(
            RankInfo(rank, 3, 0, local_world), lambda: False, {**by_mpi(), "SLURMD_NODENAME": f"n{rank}"}
        )

    met = each(3, one)
    assert [one.hosts for one in met] == [["n0", "n1", "n2"]] * 3
    met[2].store.set("word", "heard")
    assert met[1].store.get("word") == b"heard"
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("port", ["dead", "of another"])
def test_messages_of_a_dead_start_are_not_used(port):
    _other, other_port = serve_store(socket.create_server(("127.0.0.1", 0)), "127.0.0.1")
    rank_rendezvous.FOLDER.mkdir(parents=True)
    stale = {"hosts": ["127.0.0.1"], "port": 1 if port == "dead" else other_port, "token": "old"}
    (rank_rendezvous.FOLDER / "openmpi-7-.json").write_text(json.dumps(stale))

    def one(rank):
        time.sleep(rank == 0)
        return rank_rendezvous.join(RankInfo(rank, 2, rank, 2), lambda: False, by_mpi()).hosts

    assert len({str(hosts) for hosts in each(2, one)}) == 1


def test_local_ranks_are_found_where_no_starter_sets_them():
    met = rank_rendezvous.JoinedRanks(None, ["a", "b", "a"])
    assert [met.with_local_ranks(RankInfo(rank, 3, 0, 3)) for rank in range(3)] == [
        RankInfo(0, 3, 0, 2),
        RankInfo(1, 3, 0, 1),
        RankInfo(2, 3, 1, 2),
    ]
    assert met.with_local_ranks(RankInfo(2, 3, 0, 1)) == RankInfo(2, 3, 0, 1)


def test_starts_side_by_side_do_not_meet():
    def one(rank):
        return rank_rendezvous.join(
            RankInfo(rank // 2, 2, 0, 2), lambda: False, {**by_mpi(str(rank % 2)), "SLURMD_NODENAME": str(rank)}
        )

    assert [met.hosts for met in each(4, one)] == [["0", "2"], ["1", "3"], ["0", "2"], ["1", "3"]]


@pytest.mark.parametrize("who", [0, 1])
def test_a_rank_that_is_stopped_while_waiting_stops_the_others(who):
    begin = time.monotonic()

    def one(rank):
        return rank_rendezvous.join(
            RankInfo(rank, 3, rank, 3), lambda: rank == who and time.monotonic() > begin + 1, by_mpi()
        )

    said = each(2, one)  # the third never comes
    assert [type(error) for error in said] == [StoppedBeforeTraining, StoppedBeforeTraining]
    assert time.monotonic() < begin + 10


def test_a_rank_that_waits_for_rank_0_can_be_stopped():
    with pytest.raises(StoppedBeforeTraining):
        rank_rendezvous.join(RankInfo(1, 2, 1, 2), lambda: True, by_mpi())
    with pytest.raises(StoppedBeforeTraining):
        rank_rendezvous.join(RankInfo(1, 2, 1, 2), lambda: True, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"})


def test_missing_ranks_are_named():
    with pytest.raises(UnreachablePeer, match=r"rank 0 on a has waited 1 s for rank\(s\) 1, 2$"):
        rank_rendezvous.join(
            RankInfo(0, 3, 0, 3), lambda: False, {**by_mpi(), "SLURMD_NODENAME": "a"}, timedelta(seconds=1)
        )


def test_a_name_that_does_not_resolve_is_reported_within_seconds(monkeypatch):
    monkeypatch.setattr(rank_rendezvous, "_NAME_SECONDS", 1)
    told = {"MASTER_ADDR": "nowhere.invalid", "MASTER_PORT": "1234", "SLURMD_NODENAME": "b"}
    with pytest.raises(UnreachablePeer, match=r"^rank 1 on b cannot reach rank 0 at MASTER_ADDR=nowhere\.invalid: "):
        rank_rendezvous.join(RankInfo(1, 2, 0, 1), lambda: False, told)


def test_a_folder_that_is_not_shared_is_reported(monkeypatch):
    monkeypatch.setattr(rank_rendezvous, "_MESSAGE_SECONDS", 1)
    with pytest.raises(UnreachablePeer, match=r"rank 1 on .*\(do all nodes share this folder\? else set MASTER_ADDR"):
        rank_rendezvous.join(RankInfo(1, 2, 0, 1), lambda: False, by_mpi())


def test_a_folder_that_cannot_be_read_is_reported_with_the_reason(monkeypatch):
    def broken(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(rank_rendezvous, "_MESSAGE_SECONDS", 0.2)
    monkeypatch.setattr("launcher.distributed.rendezvous.os.listdir", broken)
    with pytest.raises(UnreachablePeer, match=r"runs/.rendezvous cannot be read: Input/output error$"):
        rank_rendezvous.join(RankInfo(1, 2, 0, 1), lambda: False, by_mpi())


def test_a_port_that_is_taken_is_reported():
    _store, port = serve_store(socket.create_server(("127.0.0.1", 0)), "127.0.0.1")
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with pytest.raises(UserError, match=rf"cannot serve MASTER_PORT={port}: .*choose another"):
        rank_rendezvous.join(RankInfo(0, 2, 0, 2), lambda: False, told)


def test_without_a_name_for_the_start_the_user_is_asked_for_an_address():
    with pytest.raises(UserError, match="set MASTER_ADDR to the host of rank 0, and MASTER_PORT"):
        rank_rendezvous.join(RankInfo(0, 2, 0, 2), lambda: False, {"RANK": "0", "WORLD_SIZE": "2"})


def test_a_requeued_job_and_each_of_its_steps_meet_elsewhere():
    step = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "5", "SLURM_STEP_ID": "0"}
    others = [step, {**step, "SLURM_STEP_ID": "1"}, {**step, "SLURM_RESTART_COUNT": "1"}, {**step, "SLURM_JOB_ID": "6"}]
    assert len({rank_rendezvous._key(one) for one in others}) == 4


@pytest.mark.parametrize("way", ["given", "file"])
def test_a_rank_that_another_service_answers_can_be_stopped(way):
    """The port is open, and nobody behind it speaks as a store does."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        rank_rendezvous.FOLDER.mkdir(parents=True)
        (rank_rendezvous.FOLDER / "openmpi-7-.json").write_text(
            json.dumps({"hosts": ["127.0.0.1"], "port": port, "token": "a"})
        )
        where = by_mpi() if way == "file" else {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        begin = time.monotonic()
        with pytest.raises(StoppedBeforeTraining):
            rank_rendezvous.join(RankInfo(1, 2, 1, 2), lambda: time.monotonic() > begin + 0.5, where)
