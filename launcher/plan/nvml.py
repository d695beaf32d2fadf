"""NVML, the library of the NVIDIA driver, by the functions of `pynvml` that are used here."""

from typing import Protocol, cast

import pynvml

NvmlError = cast(type[Exception], pynvml.NVMLError)


class Handle(Protocol):
    """A device of NVML: a GPU or a MIG slice. It has no members."""


class MemoryInfo(Protocol):
    """Memory of a device in bytes. `reserved`: by the driver, so that no process can use it; in version 2 only."""

    total: int
    used: int
    reserved: int


MEMORY_VERSION = cast(int, pynvml.nvmlMemory_v2)


class ProcessInfo(Protocol):
    """A process on a device. `usedGpuMemory`: bytes; None: not known."""

    pid: int
    usedGpuMemory: int | None


class PciInfo(Protocol):
    """Place on the PCI bus, such as b"00000000:17:00.0"."""

    busId: bytes | str


class UtilizationRates(Protocol):
    """Share of the last sample period in which a kernel ran, in percent."""

    gpu: int


class Nvml(Protocol):
    """Functions of pynvml. Each raises NvmlError."""

    def nvmlInit(self) -> None: ...
    def nvmlSystemGetDriverVersion(self) -> str: ...
    def nvmlSystemGetCudaDriverVersion(self) -> int: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle: ...
    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Handle: ...
    def nvmlDeviceGetName(self, handle: Handle) -> str: ...
    def nvmlDeviceGetUUID(self, handle: Handle) -> str: ...
    def nvmlDeviceGetMemoryInfo(self, handle: Handle, version: int | None = None) -> MemoryInfo: ...
    def nvmlDeviceGetCudaComputeCapability(self, handle: Handle) -> tuple[int, int]: ...
    def nvmlDeviceGetComputeMode(self, handle: Handle) -> int: ...
    def nvmlDeviceGetComputeRunningProcesses(self, handle: Handle) -> list[ProcessInfo]: ...
    def nvmlDeviceGetMigMode(self, handle: Handle) -> tuple[int, int]: ...
    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Handle) -> int: ...
    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Handle, index: int) -> Handle: ...
    def nvmlDeviceGetUtilizationRates(self, handle: Handle) -> UtilizationRates: ...
    def nvmlDeviceGetPowerUsage(self, handle: Handle) -> int: ...
    def nvmlDeviceGetPciInfo(self, handle: Handle) -> PciInfo: ...
    def nvmlDeviceGetNvLinkState(self, handle: Handle, link: int) -> int: ...
    def nvmlDeviceGetP2PStatus(self, handle: Handle, other: Handle, capability: int) -> int: ...


def installed() -> Nvml:
    """Return the functions of the driver of this machine. It may have none, and then each of them raises NvmlError."""
    return cast(Nvml, pynvml)
