from types import SimpleNamespace

import pytest
import torch

from launcher.plan import torch_report
from launcher.plan.torch_report import TorchDevice, TorchReport


@pytest.fixture
def accelerator(monkeypatch):
    def of(kind, count=1):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device(kind))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)

    return of


def test_cuda_and_rocm(accelerator, monkeypatch):
    accelerator("cuda", 2)
    old = SimpleNamespace(name="Tesla T4", total_memory=2**34, major=7, minor=5)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: old)
    assert torch_report.make() == TorchReport("cuda", (TorchDevice("Tesla T4", 2**34, bf16=False),) * 2)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert torch_report.make().devices[0].bf16


def test_xpu(accelerator, monkeypatch):
    accelerator("xpu")
    monkeypatch.setattr(
        torch.xpu, "get_device_properties", lambda index: SimpleNamespace(name="Max", total_memory=2**36)
    )
    monkeypatch.setattr(torch.xpu, "is_bf16_supported", lambda including_emulation: False)
    assert torch_report.make() == TorchReport("xpu", (TorchDevice("Max", 2**36, bf16=False),))


def test_a_build_for_cuda_says_why_it_finds_no_device(monkeypatch):
    def fail():
        raise RuntimeError("Found no NVIDIA driver on your system.\nPlease check ...")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert torch_report.make() == TorchReport()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", fail)
    assert torch_report.make() == TorchReport(error="Found no NVIDIA driver on your system.")
