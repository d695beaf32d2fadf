"""Devices and their connections, by a driver that is described."""

from types import SimpleNamespace

import pynvml
import pytest
from support.fake_nvml import CUDA_BUILD, GIB, FakeMachine, FakeNvml, gpus

from launcher.health import devices, gpu_topology
from launcher.health.devices import Memory
from launcher.health.gpu_topology import Connections
from launcher.plan import gpu_report
from launcher.plan.device_facts import Devices, Reason
from launcher.plan.devices import decide


def of(nvml, requested=None):
    found = decide("cuda", FakeMachine(nvml))
    return [(one.level, one.found) for one in devices.findings(found, requested, CUDA_BUILD, gpu_report.make(nvml))]


def test_sound_gpus_with_their_versions_and_processes():
    assert of(FakeNvml(gpus(2, processes={77: GIB}))) == [
        ("ok", "2 devices: NVIDIA A100-SXM4-40GB, 40.0 GiB each; torch 2.13.0+cu130, CUDA 13.0, driver 580.65.06"),
        ("ok", "process 77 on GPU 0 (1.0 GiB), process 77 on GPU 1 (1.0 GiB)"),
    ]


def test_too_few_gpus_and_those_in_use_are_found():
    levels = [level for level, _ in of(FakeNvml(gpus(2, used=30 * GIB, processes={1: 30 * GIB})), 8)]
    assert levels == ["failure", "warning", "warning", "ok"]


def test_a_driver_that_is_too_old_for_torch_is_a_failure():
    (found,) = of(FakeNvml(gpus(1), cuda=12040, driver="550.54"))
    assert found[0] == "failure" and "too old: it supports CUDA 12.4" in found[1]


def test_a_machine_without_the_requested_device():
    absent = Devices("xpu", 0, None, reason=Reason("this machine has no such device", "buy one"))
    (found,) = devices.findings(absent, 1, CUDA_BUILD, None)
    assert (found.level, found.cure) == ("failure", "buy one")


@pytest.mark.parametrize(
    ("state", "needed", "levels"),
    [
        (Memory(16 * GIB, 8 * GIB, 1.0, 4), None, ["ok", "ok"]),
        (Memory(16 * GIB, GIB, 9.0, 4, ((5, "java", 12 * GIB),)), 16 * GIB, ["warning", "warning"]),
        (Memory(16 * GIB, 8 * GIB, 1.0, 4), 64 * GIB, ["failure", "ok"]),
    ],
)
def test_memory_and_load(state, needed, levels):
    assert [one.level for one in devices.memory_findings(state, needed)] == levels


def test_the_memory_of_this_machine_is_read():
    state = devices.memory()
    assert 0 < state.available <= state.total and state.cores > 0 and state.largest


class Connected(FakeNvml):
    """GPUs with `up` and `down` NVLink connections; the pair (0, 2) lacks access."""

    up, down = 4, 0

    def nvmlDeviceGetNvLinkState(self, gpu, link):
        if link >= self.up + self.down:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return pynvml.NVML_FEATURE_ENABLED if link < self.up else pynvml.NVML_FEATURE_DISABLED

    def nvmlDeviceGetP2PStatus(self, one, other, capability):
        assert capability == 0  # not the tuple of pynvml
        lacks = {self.gpus.index(one), self.gpus.index(other)} == {0, 2}
        return pynvml.NVML_P2P_STATUS_CHIPSET_NOT_SUPPORTED if lacks else pynvml.NVML_P2P_STATUS_OK

    def nvmlDeviceGetPciInfo(self, gpu):
        return SimpleNamespace(busId=f"00000000:{self.gpus.index(gpu):02X}:00.0".encode())


def test_connections_are_read_from_the_driver_and_sysfs(tmp_path):
    for index, node in enumerate((0, 0, 1)):
        (tmp_path / f"bus/pci/devices/0000:{index:02x}:00.0").mkdir(parents=True)
        (tmp_path / f"bus/pci/devices/0000:{index:02x}:00.0/numa_node").write_text(f"{node}\n")
    (tmp_path / "class/infiniband/mlx5_0/device").mkdir(parents=True)
    (tmp_path / "class/infiniband/mlx5_0/device/numa_node").write_text("0\n")
    found = gpu_topology.make(Connected(gpus(3)), tmp_path)
    assert found == Connections(((4, 0),) * 3, ((0, 2),), (0, 0, 1), {"mlx5_0": 0})
    assert [(one.level, one.found) for one in gpu_topology.findings(found)] == [
        ("ok", "4 connections of each GPU up"),
        ("warning", "GPUs that cannot read each other's memory: 0 and 2"),
        ("warning", "GPU 2: no adapter is on the same NUMA node (mlx5_0)"),
    ]


def test_a_nvlink_that_is_down_is_a_failure():
    broken = Connections(((17, 1), (18, 0)), (), (None, None))
    assert gpu_topology.findings(broken)[0].found == "connections are down: GPU 0 (1 down, 17 up)"
    assert [one.level for one in gpu_topology.findings(Connections(((0, 0), (0, 0)), (), (0, 0)))] == ["ok", "ok"]
    assert gpu_topology.findings(Connections(((4, 0), (2, 0)), (), (0, 0)))[0].level == "warning"
    assert gpu_topology.findings(Connections(((0, 0),), (), (0,))) == []


def test_a_machine_without_a_driver_has_a_report():
    assert gpu_topology.report().error.startswith("NVML: ")
    assert gpu_topology.make(FakeNvml(fails=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)).error
