"""GPUs of a machine as NVML describes them. A child process makes the report, since NVML waits for a stuck driver."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import pynvml

from launcher.plan.nvml import MEMORY_VERSION, Handle, Nvml, NvmlError

T = TypeVar("T")
ComputeMode = Literal["default", "exclusive", "prohibited"]
_MODES: dict[int, ComputeMode] = {
    pynvml.NVML_COMPUTEMODE_EXCLUSIVE_THREAD: "exclusive",
    pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS: "exclusive",
    pynvml.NVML_COMPUTEMODE_PROHIBITED: "prohibited",
}
_ERRORS = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "the NVIDIA driver's library libnvidia-ml.so.1 is missing",
        "install the driver; start a container with --gpus all or --nv",
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: ("the NVIDIA driver is not loaded", "load it with modprobe nvidia"),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the NVIDIA driver's library and kernel module have different versions",
        "reboot after an update of the driver",
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        "this user may not use the NVIDIA driver",
        "look at the permissions of /dev/nvidiactl",
    ),
}
"""Errors of NVML with what to do."""


@dataclass(frozen=True)
class GpuProcess:
    """A process that uses a GPU. `memory`: bytes; None: not known."""

    pid: int
    memory: int | None


@dataclass(frozen=True)
class GpuFacts:
    """A GPU, or a MIG slice, which has no `slices`, `capability` and `mode` of its own.

    `memory`, `used`: bytes; None: not known. `capability`: compute capability. `mig`: whether MIG is on.
    """

    name: str
    uuid: str
    memory: int | None
    used: int | None = None
    capability: tuple[int, int] | None = None
    mode: ComputeMode = "default"
    processes: tuple[GpuProcess, ...] = ()
    mig: bool = False
    slices: tuple["GpuFacts", ...] = ()


@dataclass(frozen=True)
class GpuReport:
    """Answer of NVML.

    `driver`: version of the driver. `cuda`: newest CUDA version that it supports; None: not known. `gpus`: GPUs that
    this process may use, in the order of the PCI bus. `error`, `advice`: why there is no answer, and what to do.
    `stuck`: the driver did not answer in time.
    """

    driver: str = ""
    cuda: tuple[int, int] | None = None
    gpus: tuple[GpuFacts, ...] = ()
    error: str = ""
    advice: str = ""
    stuck: bool = False


def make(nvml: Nvml) -> GpuReport:
    """Query the driver. An error becomes part of the report."""
    try:
        nvml.nvmlInit()
    except NvmlError as error:
        what, advice = _ERRORS.get(_code(error), (f"NVML: {error}", ""))
        return GpuReport(error=what, advice=advice)
    report = GpuReport(
        driver=_known(nvml.nvmlSystemGetDriverVersion) or "",
        cuda=_known(lambda: _version(nvml.nvmlSystemGetCudaDriverVersion())),
    )
    gpus = list[GpuFacts]()
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = _permitted(nvml, index)
            if handle is not None:
                gpus.append(_gpu(nvml, handle))
    except NvmlError as error:
        return replace(report, error=f"NVML: GPU {len(gpus)}: {error}")
    return replace(report, gpus=tuple(gpus))


def _permitted(nvml: Nvml, index: int) -> Handle | None:
    """Return a GPU; None: it belongs to another job or container, so that CUDA does not count it either."""
    try:
        return nvml.nvmlDeviceGetHandleByIndex(index)
    except NvmlError as error:
        if _code(error) == pynvml.NVML_ERROR_NO_PERMISSION:
            return None
        raise


def _gpu(nvml: Nvml, handle: Handle) -> GpuFacts:
    mig = _known(lambda: nvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE)
    mode = _known(lambda: nvml.nvmlDeviceGetComputeMode(handle))
    return replace(
        _memory(nvml, handle),
        capability=_known(lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle)),
        mode="default" if mode is None else _MODES.get(mode, "default"),
        processes=_known(lambda: _processes(nvml, handle)) or (),
        mig=bool(mig),
        slices=_slices(nvml, handle) if mig else (),
    )


def _memory(nvml: Nvml, handle: Handle) -> GpuFacts:
    """Return the name, the identifier and the memory of a GPU or a slice, without what the driver reserves."""
    name, uuid = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle)
    if info := _known(lambda: nvml.nvmlDeviceGetMemoryInfo(handle, MEMORY_VERSION)):
        return GpuFacts(name, uuid, info.total - info.reserved, info.used)
    older = _known(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))  # a driver before 510
    return GpuFacts(name, uuid, older.total if older else None, older.used if older else None)


def _slices(nvml: Nvml, handle: Handle) -> tuple[GpuFacts, ...]:
    """Return the MIG slices of a GPU. Places without a slice, and slices of other jobs, are left out."""
    handles = [_slice(nvml, handle, index) for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))]
    return tuple(_memory(nvml, part) for part in handles if part is not None)


def _slice(nvml: Nvml, handle: Handle, index: int) -> Handle | None:
    return _known(lambda: nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))


def _processes(nvml: Nvml, handle: Handle) -> tuple[GpuProcess, ...]:
    return tuple(GpuProcess(one.pid, one.usedGpuMemory) for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle))


def _version(number: int) -> tuple[int, int]:
    """Return a CUDA version from NVML's number, such as 12040 for 12.4."""
    return number // 1000, number % 1000 // 10


def _known(query: Callable[[], T]) -> T | None:
    """Return a value of NVML; None: this GPU or this driver does not report it."""
    try:
        return query()
    except NvmlError:
        return None


def _code(error: Exception) -> int:
    return int(getattr(error, "value", pynvml.NVML_ERROR_UNKNOWN))
