import re
import threading
from types import SimpleNamespace

import pynvml
import pytest
import torch
import torch.distributed as dist
from support.fake_nvml import FakeMachine, FakeNvml, gpus

from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.distributed import rank_device
from launcher.distributed.launch_env import RankInfo
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.rank_device import (
    check_distinct,
    check_same_type,
    device_index,
    own_device,
    require,
    require_precision,
)
from launcher.distributed.stop_requests import StoppedBeforeTraining
from launcher.plan.torch_report import TorchReport

BROKEN = FakeMachine(FakeNvml(fails=pynvml.NVML_ERROR_DRIVER_NOT_LOADED))
WORKS = FakeMachine(FakeNvml(gpus(4)))


@pytest.fixture
def accelerator(monkeypatch):
    """Torch with devices of a type, or without one."""

    def of(kind, count=1):
        found = None if kind is None else torch.device(kind)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)

    return of


@pytest.mark.parametrize(
    ("at", "count", "index"),
    [
        (RankInfo(5, 8, 1, 4), 4, 1),
        (RankInfo(1, 2, 1, 2), 4, 1),
        (RankInfo(0, 1, 0, 1), 1, 0),
        (RankInfo(3, 4, 3, 4), 1, 0),  # srun --gpus-per-task=1, or a rank of mpirun with its own CUDA_VISIBLE_DEVICES
    ],
)
def test_a_rank_takes_the_device_of_its_own(at, count, index):
    assert device_index(at, count, "cuda") == index


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_that_outnumber_devices_are_refused(count, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    said = rf"4 ranks on this host for {count} cuda device\(s\) \(CUDA_VISIBLE_DEVICES=0,1\) \(one rank a device"
    for rank in range(4):
        with pytest.raises(UserError, match=said):
            device_index(RankInfo(rank, 4, rank, 4), count, "cuda")


def on_threads(count, check):
    """What each rank's check says, with a store that they share; empty: nothing."""
    store, found = dist.HashStore(), dict[int, str]()

    def run(rank):
        try:
            check(rank, store)
            found[rank] = ""
        except UserError as error:
            found[rank] = str(error)

    ranks = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join()
    return found


@pytest.mark.parametrize(("uuids", "said"), [("abcd", ""), ("aaaa", r"4 ranks on this host for 1 cuda device\(s\) ")])
def test_ranks_that_each_see_one_device_must_not_share_it(accelerator, monkeypatch, uuids, said):
    accelerator("cuda")
    monkeypatch.setattr(rank_device, "device_identity", lambda device: uuids[device.index])

    def check(rank, store):
        check_distinct(RankInfo(rank, 4, rank, 4), torch.device("cuda", rank), store)

    found = on_threads(4, check)
    assert len(found) == 4
    assert all(re.match(said, text) if said else text == "" for text in found.values())


@pytest.mark.parametrize(
    ("types", "said"), [(["cuda", "cuda"], ""), (["cuda", "cpu"], "2 ranks a cpu device, 2 ranks a cu")]
)
def test_hosts_that_decide_differently_are_refused_on_all_ranks(types, said):
    """Two hosts with two ranks each; one of them may have a driver that does not work."""

    def check(rank, store):
        check_same_type(RankInfo(rank, 4, rank % 2, 2), torch.device(types[rank // 2]), store)

    found = on_threads(4, check)
    assert len(found) == 4
    assert all(said in text if said else text == "" for text in found.values())


def test_a_rank_that_waits_for_reports_heeds_a_stop():
    with pytest.raises(StoppedBeforeTraining):
        check_same_type(RankInfo(0, 2, 0, 1), torch.device("cpu"), dist.HashStore(), lambda: True)


def test_ranks_that_see_all_devices_ask_nobody(accelerator):
    accelerator("cuda", 4)
    check_distinct(RankInfo(1, 4, 1, 4), torch.device("cuda", 1), dist.HashStore())


def test_devices_are_told_apart_by_their_uuid(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="u"))
    assert rank_device.device_identity(torch.device("cuda", 0)) == "u"
    assert rank_device.device_identity(torch.device("mps", 0)) == "mps:0"


def test_what_was_planned_for_a_gpu_does_not_train_on_the_cpu(accelerator):
    accelerator(None)
    require("cpu")
    what = r"\S+ has no cuda device that torch can use: the NVIDIA driver is not loaded \(load it with modprobe nvidia"
    with pytest.raises(RuntimeError, match=what + ", or cluster.device=cpu trains on the CPU"):
        require("cuda", BROKEN)
    with pytest.raises(UserError, match=what):
        own_device(RankInfo(), "cuda", BROKEN)
    answer = TorchReport(error="CUDA error 802: system not yet initialized")
    said = r"has no cuda device that torch can use: CUDA error 802: system not yet initialized \(cluster"
    with pytest.raises(RuntimeError, match=said):
        require("cuda", FakeMachine(FakeNvml(gpus(1)), answer=answer))
    accelerator("cuda")
    require("cuda")
    with pytest.raises(RuntimeError, match="has no xpu device"):
        require("xpu", WORKS)


def test_a_rank_that_is_started_by_hand_decides_as_the_plan_does(accelerator, caplog):
    accelerator("cuda", 4)
    assert own_device(RankInfo(2, 4, 2, 4), None, WORKS) == torch.device("cuda", 2)
    assert own_device(RankInfo(2, 4, 2, 4), "cpu", WORKS) == torch.device("cpu")
    assert own_device(RankInfo(), None, FakeMachine(shown=frozenset())) == torch.device("cpu")
    assert not caplog.records
    assert own_device(RankInfo(), None, BROKEN) == torch.device("cpu")
    (record,) = caplog.records
    assert "USES THE CPU: the NVIDIA driver is not loaded" in record.getMessage()
    assert own_device(RankInfo(1, 2, 1, 2), None, BROKEN) == torch.device("cpu")
    assert len(caplog.records) == 1  # once a host


def test_mig_without_slices_is_a_mistake_by_hand_too():
    nvml = FakeNvml(gpus(1, slices=[]))
    with pytest.raises(UserError, match="MIG is on at NVIDIA A100-SXM4-40GB, and it has no slices"):
        own_device(RankInfo(), None, FakeMachine(nvml))


def test_the_plan_of_ranks_that_each_see_one_device_counts_them_all(monkeypatch):
    monkeypatch.setattr(rank_device.topology, "ThisMachine", lambda: FakeMachine(FakeNvml(gpus(1))))
    monkeypatch.setattr(rank_device, "rank_info", lambda: RankInfo(0, 8, 0, 4))
    spread, per_node, devices = rank_device.node_of(Cluster(), ProcessGroup(0, 8, torch.device("cuda", 0)))
    assert (spread.nodes, spread.device, per_node, devices.kind, devices.count) == ((2, 2), "cuda", 4, "cuda", 4)
    spread, per_node, devices = rank_device.node_of(Cluster(), ProcessGroup(0, 8, torch.device("cpu")))
    assert (spread.nodes, spread.device, per_node, devices.kind, devices.count) == ((2, 2), "cpu", 4, "cpu", 1)


def test_a_rank_that_a_shell_has_started_does_not_keep_the_others_out_of_an_exclusive_device(monkeypatch):
    """Its process is no sibling of rank 0, which plans after all ranks have connected."""
    exclusive = gpus(2, mode=pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS, processes={4711: 2**30})
    monkeypatch.setattr(rank_device.topology, "ThisMachine", lambda: FakeMachine(FakeNvml(exclusive)))
    monkeypatch.setattr(rank_device, "rank_info", lambda: RankInfo(0, 2, 0, 2))
    cluster, per_node, devices = rank_device.node_of(Cluster(), ProcessGroup(0, 2, torch.device("cuda", 0)))
    assert rank_device.topology.world(cluster, per_node).problems() != []
    assert rank_device.topology.world(cluster, per_node, devices).problems() == []


def test_a_device_without_bf16_is_found_at_the_start_of_its_rank(monkeypatch):
    """Where the plan was made on another machine."""
    old = SimpleNamespace(name="Tesla T4", total_memory=2**34, major=7, minor=5)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: old)
    group = ProcessGroup(0, 1, torch.device("cuda", 0))
    with pytest.raises(UserError, match=r"train.precision: rank 0 on \S+: Tesla T4 has no bf16 \(take fp16, or fp32\)"):
        require_precision(group, "bf16")
    require_precision(group, "fp16")
    old.major = 8
    require_precision(group, "bf16")
    require_precision(ProcessGroup(0, 1, torch.device("cpu")), "bf16")
