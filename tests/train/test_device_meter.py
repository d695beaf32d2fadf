from types import SimpleNamespace

import pynvml
import pytest
import torch
from support.fake_nvml import GIB, FakeNvml, gpus, mig

from launcher.train.device_meter import DeviceMeter, DeviceReading


@pytest.fixture
def cuda(monkeypatch):
    """Torch with a CUDA device of a given UUID, which has allocated 3 GiB and reserved 4."""

    def with_uuid(uuid):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuid))
        monkeypatch.setattr(torch.accelerator, "memory_allocated", lambda device: 3 * GIB)
        monkeypatch.setattr(torch.accelerator, "memory_reserved", lambda device: 4 * GIB)
        return torch.device("cuda", 0)

    return with_uuid


def test_the_gpu_of_the_rank_is_found_by_its_uuid_and_not_by_its_index(cuda):
    nvml = FakeNvml(gpus(4))
    nvml.gpus[2].utilization, nvml.gpus[2].milliwatts, nvml.gpus[2].used = 42, 250_500, 9 * GIB
    meter = DeviceMeter(cuda(nvml.gpus[2].uuid.removeprefix("GPU-")), nvml)
    assert meter.read() == DeviceReading(3 * GIB, 4 * GIB, 42.0, 250.5, 9 * GIB)


def test_what_a_mig_slice_does_not_report_is_not_known(cuda):
    nvml = FakeNvml(gpus(1, slices=[mig("MIG-a", 5 * GIB)]))
    assert DeviceMeter(cuda("a"), nvml).read() == DeviceReading(3 * GIB, 4 * GIB, None, None, 0)


@pytest.mark.parametrize("nvml", [FakeNvml(fails=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND), FakeNvml(gpus(2))])
def test_without_nvml_or_without_the_gpu_torch_still_knows_its_memory(cuda, nvml):
    assert DeviceMeter(cuda("another"), nvml).read() == DeviceReading(3 * GIB, 4 * GIB)


def test_a_cpu_has_no_reading():
    assert DeviceMeter(torch.device("cpu")).read() == DeviceReading(None, None, None, None)


def test_an_amd_device_is_read_by_torch(cuda, monkeypatch):
    device = cuda("another")
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 55)
    monkeypatch.setattr(torch.cuda, "power_draw", lambda device: 600)
    assert DeviceMeter(device).read() == DeviceReading(3 * GIB, 4 * GIB, 55.0, 600.0)
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: "N/A")
    assert DeviceMeter(device).read() == DeviceReading(3 * GIB, 4 * GIB)
