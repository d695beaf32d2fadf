"""AMD and Intel GPUs, as torch reports them, and Apple's, which cannot be used."""

from launcher.plan.device_facts import Device, Devices, Reason, smallest
from launcher.plan.machine import Machine, TorchBuild
from launcher.plan.torch_report import TorchReport


def amd(machine: Machine) -> Devices | Reason:
    """Return AMD GPUs that torch can use, or why it can use none."""
    build = machine.torch_build()
    if build.hip is None:
        return other_build(build, "AMD GPUs", "ROCm")
    return _ask_torch(machine, "cuda", "torch finds no AMD GPU that it can use")


def intel(machine: Machine) -> Devices | Reason:
    """Return Intel GPUs that torch can use, or why it can use none."""
    build = machine.torch_build()
    if build.xpu is None:
        return other_build(build, "an Intel GPU", "XPU")
    return _ask_torch(machine, "xpu", "torch finds no Intel GPU that it can use")


def apple(machine: Machine) -> Reason:
    """Return why the GPU of a Mac is not used."""
    return Reason("an Apple GPU has no float64, in which losses and metrics are summed")


def _ask_torch(machine: Machine, kind: str, what: str) -> Devices | Reason:
    answer = machine.torch()
    if answer.kind == kind:
        return of_torch(answer)
    return Reason(f"{what}: {answer.error}" if answer.error else what)


def of_torch(answer: TorchReport) -> Devices:
    """Return the devices that torch reports."""
    each = tuple(Device(device.name, device.memory, device.bf16) for device in answer.devices)
    return Devices(answer.kind, len(each), smallest([device.memory for device in each]), each)


def other_build(build: TorchBuild, devices: str, wanted: str) -> Reason:
    """Return that torch is built for other devices than those of this machine."""
    built = {"CUDA": build.cuda, "ROCm": build.hip, "XPU": build.xpu}
    of = next((name for name, version in built.items() if version), "the CPU")
    what = f"this machine has {devices}, and torch {build.version} is built for {of}"
    return Reason(what, f"install a torch that is built for {wanted}: https://pytorch.org/get-started")
