"""Speed, MFU and the state of the device in a training line."""

from types import SimpleNamespace

import pytest
import torch

from launcher.distributed.signals import StopReason
from launcher.plan.model_spec import Architecture
from launcher.train import step_metrics
from launcher.train.device_meter import DeviceReading
from launcher.train.step_metrics import StepMeter
from launcher.train.step_sync import StepInfo

SHAPE = Architecture(
    name="BertForMaskedLM", parameters=1000, trained=1000, buffers=0, in_layers=600, hidden=8, layers=2, heads=2
)
TASK = SimpleNamespace(output_size=lambda length: 0.25 * length * 50)
"""A quarter of the tokens is masked, of a vocabulary of 50."""
INFO = StepInfo(10.0, 0, 40, 48, 600, 0.0, StopReason.NONE, due=False)


def meter(reading=None, **keys):
    device = SimpleNamespace(read=lambda: reading or DeviceReading())
    return StepMeter(device, TASK, 4, 2, **keys)


def test_tokens_are_those_of_one_device_since_the_step_before():
    made = meter(tokens=1000, seconds=7.0)
    assert made.measure(INFO, 1040, 7.5) == {"tokens_per_second": 40 / 0.5 / 2}
    assert made.measure(INFO, 1080, 7.75) == {"tokens_per_second": 40 / 0.25 / 2}
    assert made.measure(INFO, 1120, 7.75) == {}, "no time has passed"


def test_the_model_flops_utilisation_is_that_of_the_documented_formula():
    """6 for each parameter of the layers and token, 12 for attention, 6 for each output of the head and hidden unit."""
    outputs = 4 * 0.25 * 10 * 50
    operations = 6 * 600 * 40 + 12 * 2 * 8 * 600 + 6 * 8 * outputs
    made = meter(shape=SHAPE, peak=1e6)
    assert made.measure(INFO, 40, 0.5)["mfu"] == pytest.approx(operations / (0.5 * 2 * 1e6), rel=1e-3)
    assert "mfu" not in meter(shape=SHAPE).measure(INFO, 40, 0.5), "the peak is not known"
    partly = SHAPE.model_copy(update={"trained": 10})
    assert "mfu" not in meter(shape=partly, peak=1e6).measure(INFO, 40, 0.5)


def test_the_state_of_the_device_is_recorded_where_it_is_known():
    reading = DeviceReading(allocated=5, reserved=7, utilization=93.0, power=None)
    record = meter(reading).measure(INFO, 40, 1.0)
    assert record == {
        "tokens_per_second": 20.0, "memory_allocated": 5, "memory_reserved": 7, "utilization": 93.0,
    }  # fmt: skip


def test_the_peak_of_the_profile_comes_before_the_published_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    gpu, cpu, auto = torch.device("cuda", 0), torch.device("cpu"), SimpleNamespace(peak_tflops="auto")
    assert step_metrics.peak(auto, gpu, "bf16") == 989.5e12
    assert step_metrics.peak(auto, cpu, "bf16") is None
    assert step_metrics.peak(SimpleNamespace(peak_tflops=300.0), cpu, "bf16") == 3e14
