import os
import re
import threading
import time
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import support
import torch
import torch.distributed as dist
from support import ranks
from torch.distributed.device_mesh import init_device_mesh

from launcher.build import build
from launcher.distributed import process_group
from launcher.distributed.launch_env import RankInfo, UnreachablePeer
from launcher.distributed.process_group import exchange, first_all_reduce
from launcher.distributed.stop_requests import StopMonitor
from launcher.prepare import run_setup


def gathered(process):
    record = np.array((process.rank + 0.5, 2**64 - 1 - process.rank), dtype=[("a", "f8"), ("b", "u8")])
    process.barrier()
    return process.all_gather(record), process.broadcast({"from": process.rank})


@pytest.mark.parametrize("world", [1, 3])
def test_ranks_gather_records_in_their_order_and_get_the_value_of_rank_0(world):
    for every, said in ranks.on_ranks(world, gathered):
        assert every["a"].tolist() == [rank + 0.5 for rank in range(world)]
        assert every["b"].tolist() == [2**64 - 1 - rank for rank in range(world)]
        assert said == {"from": 0}


def greeted(process, silent):
    process.peers.register(f"n{process.rank}")
    if process.rank == silent:
        time.sleep(4)
        return ""
    try:
        exchange(process, timedelta(seconds=2))
    except UnreachablePeer as error:
        return str(error)
    return "heard"


def test_every_pair_of_ranks_exchanges_a_message():
    assert ranks.on_ranks(4, greeted, None) == ["heard"] * 4


def test_a_silent_rank_is_named_with_its_host():
    said = ranks.on_ranks(3, greeted, 1)
    assert all(re.match(rf"rank {r} on n{r} and rank \d on n\d cannot exchange a message: ", said[r]) for r in (0, 2))
    assert any("rank 1 on n1" in one for one in said)


def added_up(process, absent):
    process.peers.register(f"n{process.rank}")
    if process.rank == absent:
        process.store.get("the others have given up")
        return ""
    try:
        first_all_reduce(process, seconds=1)
    except UnreachablePeer as error:
        return str(error)
    finally:
        process.store.set("the others have given up", "")
    return "added up"


def test_every_rank_takes_part_in_the_first_all_reduce():
    assert ranks.on_ranks(2, added_up, None) == ["added up"] * 2


def test_a_rank_that_never_joins_the_first_all_reduce_is_named_with_its_host():
    assert ranks.on_ranks(2, added_up, 1)[0] == (
        "rank 0 on n0 has waited 1 s for rank 1 on n1 to complete the first all-reduce"
    )


def test_an_error_of_nccl_has_the_address_that_it_could_not_reach(monkeypatch):
    def fail(*args, **kw):
        raise RuntimeError(
            "NCCL error in: NCCLUtils.cpp:94, unhandled system error, NCCL version 2.27.5\nncclSystemError: System "
            "call failed\nLast error:\nsocketStartConnect: Connect to 10.0.0.2<40123> failed : No route to host"
        )

    monkeypatch.setattr(dist, "init_process_group", fail)
    with pytest.raises(
        UnreachablePeer, match=r"unhandled system error, .*: socketStartConnect: Connect to 10\.0\.0\.2"
    ):
        process_group.connect(RankInfo(0, 2, 0, 1), "cpu", dist.HashStore())


def test_devices_that_pass_wrong_data_are_refused(monkeypatch):
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.fill_(3))
    process = process_group.ProcessGroup(1, 2, torch.device("cpu"), store=dist.HashStore())
    with pytest.raises(RuntimeError, match=r"over 2 ranks gave 3 for a sum of ones on cpu of rank 1: the devices exch"):
        first_all_reduce(process)


def timed_out(process, kind):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "shard"))
    group = dist.new_group([0, 1]) if kind == "new" else mesh.get_group("shard")
    replace(process, timeout=timedelta(seconds=1)).set_timeouts()
    if process.rank > 0:
        process.store.get("given up")
        return ""
    try:
        dist.all_reduce(torch.ones(1), group=group)
    except RuntimeError as error:
        return str(error)
    finally:
        process.store.set("given up", "")


@pytest.mark.parametrize("kind", ["mesh", "new"])
def test_all_groups_get_the_timeout_of_the_run(kind):
    assert "Timed out waiting 1000ms" in ranks.on_ranks(4, timed_out, kind)[0]


def test_a_rank_sets_the_timeout_of_its_run_when_the_engine_has_made_its_groups(workspace, monkeypatch):
    prepared, set_to = run_setup.load(ranks.ready(support.write(support.small("x")))), []
    prepared = replace(prepared, cluster=prepared.cluster.model_copy(update={"timeout": 7}))
    monkeypatch.setattr(process_group.ProcessGroup, "set_timeouts", lambda self: set_to.append(self.timeout))
    build(prepared, process_group.connect(RankInfo(), "cpu"), StopMonitor(), None, workers=0)
    assert set_to == [timedelta(minutes=7)]


def test_a_group_that_does_not_end_is_left_to_the_end_of_the_process(monkeypatch):
    asked = threading.Event()
    monkeypatch.setattr(process_group, "_CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: (asked.set(), threading.Event().wait()))
    process_group.ProcessGroup(0, 2, torch.device("cpu")).close()
    assert asked.is_set()


@pytest.mark.parametrize(("info", "used"), [(RankInfo(0, 2, 0, 2), "lo"), (RankInfo(0, 2, 0, 1), None)])
def test_ranks_of_one_host_use_the_loopback_unless_an_interface_is_set(monkeypatch, info, used):
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **kw: None)
    process_group.connect(info, "cpu", dist.HashStore())
    assert (os.environ["NCCL_SOCKET_IFNAME"], os.environ.get("GLOO_SOCKET_IFNAME")) == ("eth7", used)
    monkeypatch.delenv("NCCL_SOCKET_IFNAME")
    process_group.connect(info, "cpu", dist.HashStore())
    assert os.environ.get("NCCL_SOCKET_IFNAME") == used
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")  # so that the end of the test restores it


def claimed(process):
    said = process.first_to_claim("a"), process.first_to_claim("b" if process.rank else "c")
    process.barrier()  # a rank that leaves closes connections that others may still be making
    return said


def test_one_rank_claims_a_name():
    said = ranks.on_ranks(3, claimed)
    assert sorted(first for first, _ in said) == [False, False, True]
    assert sorted(second for _, second in said) == [False, True, True]


def test_a_rank_alone_claims_every_name():
    assert process_group.connect(RankInfo(), "cpu").first_to_claim("a")


def test_a_group_is_bound_to_the_device_of_its_rank_which_is_set_before(monkeypatch):
    """No GPU is needed: which calls are made, and in which order."""
    calls = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: calls.append(("set", index)))
    monkeypatch.setattr(dist, "init_process_group", lambda *args, **kw: calls.append((*args, kw["device_id"])))
    monkeypatch.setattr(process_group, "check_distinct", lambda info, device, *more: calls.append(("distinct", device)))
    group = process_group.connect(RankInfo(5, 8, 1, 4), "cuda", store=dist.HashStore())
    assert calls == [("set", 1), ("distinct", torch.device("cuda", 1)), ("cpu:gloo,cuda:nccl", torch.device("cuda", 1))]
    assert group.device == torch.device("cuda", 1)
    calls.clear()
    process_group.ProcessGroup(0, 1, torch.device("cuda", 0)).ensure_initialized()
    process_group.ProcessGroup(0, 1, torch.device("cpu")).ensure_initialized()
    assert calls == [("cpu:gloo,cuda:nccl", torch.device("cuda", 0)), ("gloo", None)]


def test_the_first_all_reduce_is_on_the_device(monkeypatch):
    devices = []
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: devices.append(tensor.device))
    monkeypatch.setattr(process_group, "float", lambda tensor: 2.0, raising=False)
    first_all_reduce(process_group.ProcessGroup(0, 2, torch.device("meta"), store=dist.HashStore()))
    assert devices == [torch.device("meta")]
