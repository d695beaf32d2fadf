"""Accelerators as torch reports them: those of AMD and Intel, and NVIDIA's where NVML cannot answer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TorchDevice:
    """An accelerator. `memory`: bytes; None: not known. `bf16`: whether it computes in bf16 without emulation."""

    name: str = ""
    memory: int | None = None
    bf16: bool = True


@dataclass(frozen=True)
class TorchReport:
    """Answer of torch. `kind`: type of the accelerator; empty: torch can use none. `error`: why, if torch says so.
    `stuck`: torch did not answer in time."""

    kind: str = ""
    devices: tuple[TorchDevice, ...] = ()
    error: str = ""
    stuck: bool = False


def make() -> TorchReport:
    """Query the torch of this process. This may create a context on a device."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return TorchReport(error=_cuda_error())
    devices = tuple(device(found.type, index) for index in range(torch.accelerator.device_count()))
    return TorchReport(found.type, devices)


def device(kind: str, index: int) -> TorchDevice:
    """Return an accelerator of this process's torch. `kind`: its type."""
    import torch

    if kind == "cuda":
        cuda = torch.cuda.get_device_properties(index)
        bf16 = bool(torch.version.hip) or (cuda.major, cuda.minor) >= (8, 0)
        return TorchDevice(cuda.name, int(cuda.total_memory), bf16)
    if kind == "xpu":
        xpu = torch.xpu.get_device_properties(index)
        return TorchDevice(
            xpu.name, int(xpu.total_memory), bool(torch.xpu.is_bf16_supported(including_emulation=False))
        )
    return TorchDevice()


def _cuda_error() -> str:
    """Return why a build of torch for CUDA or ROCm can use no device; empty: it gives no reason."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return ""
    try:
        torch.cuda.init()
    except Exception as error:  # RuntimeError, or an error of the driver
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ""
