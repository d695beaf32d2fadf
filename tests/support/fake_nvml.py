"""Stand-ins for pynvml (the functions of launcher.plan.nvml) and for a machine, answered from a description."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pynvml

from launcher.plan import gpu_report
from launcher.plan.machine import TorchBuild
from launcher.plan.torch_report import TorchReport

GIB = 2**30
CUDA_BUILD = TorchBuild("2.13.0+cu130", cuda="13.0")
NO_ANSWER = TorchReport()


@dataclass
class Gpu:
    """A GPU, or a MIG slice, as NVML describes it. `processes`: bytes by process id. `slices`: None: MIG is off.
    `memory`: None: not reported. `reserved`: None: the driver is an old one."""

    name: str = "NVIDIA A100-SXM4-40GB"
    uuid: str = "GPU-00000000-1111-2222-3333-444444444444"
    memory: int | None = 40 * GIB
    used: int = GIB // 2
    capability: tuple[int, int] = (8, 0)
    mode: int = pynvml.NVML_COMPUTEMODE_DEFAULT
    processes: dict[int, int | None] = field(default_factory=dict)
    slices: "list[Gpu | None] | None" = None
    utilization: int | None = 87
    milliwatts: int | None = 312_500
    reserved: int | None = 0


def gpus(count: int, **more) -> list[Gpu]:
    return [Gpu(uuid=f"GPU-{index:08d}-1111-2222-3333-444444444444", **more) for index in range(count)]


def mig(uuid: str, memory: int, name: str = "NVIDIA A100-SXM4-40GB MIG 1g.5gb") -> Gpu:
    return Gpu(name, uuid, memory, used=0, utilization=None, milliwatts=None)


@dataclass
class FakeNvml:
    """`fails`: error code of nvmlInit. A GPU may be an error code instead, of its handle."""

    gpus: list[Gpu | int] = field(default_factory=list)
    cuda: int = 13000
    driver: str = "580.65.06"
    fails: int | None = None

    def nvmlInit(self):
        if self.fails is not None:
            raise pynvml.NVMLError(self.fails)

    def nvmlSystemGetDriverVersion(self):
        return self.driver

    def nvmlSystemGetCudaDriverVersion(self):
        return self.cuda

    def nvmlDeviceGetCount(self):
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):
        gpu = self.gpus[index]
        return gpu if isinstance(gpu, Gpu) else _known(None, gpu)

    def nvmlDeviceGetHandleByUUID(self, uuid):
        slices = [part for gpu in self.gpus for part in gpu.slices or [] if part is not None]
        found = next((one for one in [*self.gpus, *slices] if one.uuid == uuid), None)
        return _known(found, pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetName(self, gpu):
        return gpu.name

    def nvmlDeviceGetUUID(self, gpu):
        return gpu.uuid

    def nvmlDeviceGetMemoryInfo(self, gpu, version=None):
        if version is None:
            return SimpleNamespace(total=_known(gpu.memory), used=gpu.used)
        return SimpleNamespace(total=_known(gpu.memory), used=gpu.used, reserved=_known(gpu.reserved))

    def nvmlDeviceGetCudaComputeCapability(self, gpu):
        return gpu.capability

    def nvmlDeviceGetComputeMode(self, gpu):
        return gpu.mode

    def nvmlDeviceGetComputeRunningProcesses(self, gpu):
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in gpu.processes.items()]

    def nvmlDeviceGetMigMode(self, gpu):
        if gpu.capability < (8, 0):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return (0, 0) if gpu.slices is None else (1, 1)

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu, index):
        slices = gpu.slices or []
        return _known(slices[index] if index < len(slices) else None, pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetUtilizationRates(self, gpu):
        return SimpleNamespace(gpu=_known(gpu.utilization))

    def nvmlDeviceGetPowerUsage(self, gpu):
        return _known(gpu.milliwatts)


def _known(value, error=pynvml.NVML_ERROR_NOT_SUPPORTED):
    if value is None:
        raise pynvml.NVMLError(error)
    return value


@dataclass
class FakeMachine:
    """A machine with NVML, and what torch would answer. It is one with an NVIDIA driver and a torch for CUDA."""

    nvml: FakeNvml = field(default_factory=FakeNvml)
    environment: dict[str, str] = field(default_factory=dict)
    build: TorchBuild = CUDA_BUILD
    shown: frozenset[str] = frozenset({"nvidia"})
    answer: TorchReport = NO_ANSWER
    own: frozenset[int] = frozenset()
    report: gpu_report.GpuReport | None = None

    def vendors(self):
        return self.shown

    def torch_build(self):
        return self.build

    def gpus(self):
        return self.report or gpu_report.make(self.nvml)

    def torch(self):
        return self.answer

    def is_foreign(self, pid):
        return pid not in self.own
