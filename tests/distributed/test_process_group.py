import re
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support import ranks

from launcher.distributed import process_group
from launcher.distributed.launch_env import RankInfo, UnreachablePeer
from launcher.distributed.process_group import exchange


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
    hosts = [f"n{rank}" for rank in range(process.world)]
    if process.rank == silent:
        time.sleep(4)
        return ""
    try:
        exchange(process, hosts, timedelta(seconds=2))
    except UnreachablePeer as error:
        return str(error)
    return "heard"


def test_every_pair_of_ranks_exchanges_a_message():
    assert ranks.on_ranks(4, greeted, None) == ["heard"] * 4


def test_a_silent_rank_is_named_with_its_host():
    said = ranks.on_ranks(3, greeted, 1)
    assert all(re.match(rf"rank {r} on n{r} and rank \d on n\d cannot exchange a message: ", said[r]) for r in (0, 2))
    assert any("rank 1 on n1" in one for one in said)


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
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **kw: calls.append((backend, kw["device_id"])))
    monkeypatch.setattr(process_group, "check_distinct", lambda info, device, *more: calls.append(("distinct", device)))
    group = process_group.connect(RankInfo(5, 8, 1, 4), "cuda", store=dist.HashStore())
    assert calls == [("set", 1), ("distinct", torch.device("cuda", 1)), ("cpu:gloo,cuda:nccl", torch.device("cuda", 1))]
    assert group.device == torch.device("cuda", 1)
    calls.clear()
    process_group.ProcessGroup(0, 1, torch.device("cuda", 0)).ensure_initialized()
    process_group.ProcessGroup(0, 1, torch.device("cpu")).ensure_initialized()
    assert calls == [("cpu:gloo,cuda:nccl", torch.device("cuda", 0)), ("gloo", None)]
