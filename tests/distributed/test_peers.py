import threading

import pytest
import torch.distributed as dist

from launcher.distributed.launch_env import UnreachablePeer
from launcher.distributed.peers import Peers
from launcher.distributed.stop_requests import StoppedBeforeTraining


def peers(rank=0, world=3):
    found = Peers(dist.HashStore(), rank, world)
    found.register("a")
    return found


def wait():
    threading.Event().wait(60)


def test_a_call_that_ends_in_time_returns_its_result():
    assert peers().call("connect", lambda: 7, 10) == 7


def test_ranks_that_have_not_come_are_named_with_their_hosts():
    found = peers()
    Peers(found.store, 1, 3).register("b")
    with pytest.raises(UnreachablePeer, match=r"^rank 0 on a has waited 0 s for rank 1 on b, rank 2 to connect$"):
        found.call("connect", wait, 0.2)


def test_hosts_between_which_no_data_passes_are_named():
    found = peers(world=2)
    other = Peers(found.store, 1, 2)
    other.register("b")
    other.call("connect", lambda: None, 1)
    with pytest.raises(
        UnreachablePeer, match=r"^rank 0 on a has waited 0 s to connect, and all ranks have come: no da"
    ):
        found.call("connect", wait, 0.2)
    assert found.hosts() == ["a", "b"]


def test_a_waiting_rank_heeds_a_stop():
    with pytest.raises(StoppedBeforeTraining):
        peers().call("connect", wait, 10, lambda: True)


def test_a_call_that_all_have_come_to_is_not_waited_for_until_the_timeout(monkeypatch):
    monkeypatch.setattr("launcher.distributed.peers._PATIENCE_SECONDS", 0.2)
    found = peers(world=1)
    with pytest.raises(UnreachablePeer, match="and all ranks have come: no data passes on a "):
        found.call("connect", wait, 3600)


def test_a_call_that_blocks_the_store_is_given_up_too():
    """As the rendezvous of gloo and NCCL do, which wait for a key of a rank that never comes."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    found = Peers(store, 0, 2)
    found.register("a")
    with pytest.raises(UnreachablePeer, match=r"^rank 0 on a has waited 1 s for rank 1 to connect$"):
        found.call("connect", lambda: store.get("never"), 1)
