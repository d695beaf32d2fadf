"""Measurement of a rank's own device: memory, utilisation and power."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from launcher.plan.nvml import Handle, Nvml, NvmlError, installed


@dataclass(frozen=True)
class DeviceReading:
    """State of a device at one moment. Each value is None where it is not known, and on a CPU.

    `allocated`: bytes of this process's tensors. `reserved`: bytes that torch holds for this process. `utilization`:
    percent of the last sample period (1/6 s to 1 s) in which a kernel ran. `power`: watts. `used`: bytes in use on the
    device, by all processes.
    """

    allocated: int | None = None
    reserved: int | None = None
    utilization: float | None = None
    power: float | None = None
    used: int | None = None


class DeviceMeter:
    """Reads the state of a device. A reading takes less than a millisecond and does not wait for the device."""

    def __init__(self, device: torch.device, nvml: Nvml | None = None):
        """`device`: device of this rank. `nvml`: functions of the NVIDIA driver, by default those installed."""
        self._device = device
        self._nvml = nvml or installed()
        self._handle = self._nvidia_handle()

    def read(self) -> DeviceReading:
        """Return the present state of the device."""
        if self._device.type == "cpu":
            return DeviceReading()
        allocated, reserved = _memory(self._device)
        nvml, handle = self._nvml, self._handle
        if handle is None:
            utilization, power = self._amd()
            return DeviceReading(allocated, reserved, utilization, power)
        return DeviceReading(
            allocated,
            reserved,
            utilization=_number(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
            power=_number(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            used=_bytes(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used),
        )

    def _nvidia_handle(self) -> Handle | None:
        """Return the device of NVML with the identifier that CUDA reports; None: not an NVIDIA device, or NVML cannot
        be used.

        An index would not do: CUDA and NVML may number devices differently.
        """
        if self._device.type != "cuda" or torch.version.hip:
            return None
        with contextlib.suppress(NvmlError):
            self._nvml.nvmlInit()
            uuid = torch.cuda.get_device_properties(self._device).uuid
            for kind in ("GPU", "MIG"):
                with contextlib.suppress(NvmlError):
                    return self._nvml.nvmlDeviceGetHandleByUUID(f"{kind}-{uuid}")
        return None

    def _amd(self) -> tuple[float | None, float | None]:
        """Return the utilisation and the power of an AMD device; None: not known, as without the package amdsmi."""
        if self._device.type != "cuda" or not torch.version.hip:
            return None, None
        try:
            return float(torch.cuda.utilization(self._device)), float(torch.cuda.power_draw(self._device))
        except Exception:  # amdsmi has errors of its own, and may be missing
            return None, None


def _memory(device: torch.device) -> tuple[int | None, int | None]:
    """Return the bytes that torch has allocated and reserved on an accelerator."""
    return int(torch.accelerator.memory_allocated(device)), int(torch.accelerator.memory_reserved(device))


def _number(query: Callable[[], float]) -> float | None:
    """Return a value of NVML; None: not known, such as the power of a MIG slice."""
    try:
        return float(query())
    except NvmlError:
        return None


def _bytes(query: Callable[[], int]) -> int | None:
    value = _number(query)
    return None if value is None else int(value)
