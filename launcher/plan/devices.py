"""The decision about devices, for every start: their type, their number, their memory, and why not another.

Plans, ranks, evaluations and predictions read it from `decide`.
"""

from collections.abc import Callable
from typing import Literal

from launcher.plan import nvidia_devices, torch_devices
from launcher.plan.device_facts import Devices, Reason
from launcher.plan.machine import Machine, Vendor

Requested = Literal["auto", "cpu", "cuda", "xpu", "mps"]


def decide(requested: Requested, machine: Machine) -> Devices:
    """Return the devices of a machine for a profile's key `device`.

    `auto` uses the CPU if there is no accelerator that torch can use. If the machine has one all the same, a note says
    why, unless it is a mistake of its setup. A required type that cannot be used has count 0 and a reason.
    """
    if requested == "cpu":
        return _cpu()
    shown, reasons = machine.vendors() - _unremarkable(requested, machine), list[Reason]()
    for vendor, find in _VENDORS[requested].items():
        if vendor not in shown:
            continue
        found = find(machine)
        if isinstance(found, Devices):
            return found
        if found.mistake:
            return Devices("cuda", 0, None, reason=found)
        reasons.append(found)
    if requested == "auto":
        return _cpu(tuple(f"USES THE CPU: {reason.with_advice()}" for reason in reasons))
    missing = Reason(f"this machine has no such device: {_SIGNS[requested]}")
    return Devices(requested, 0, None, reason=reasons[0] if reasons else missing)


def _unremarkable(requested: Requested, machine: Machine) -> set[Vendor]:
    """Return the vendors whose devices `auto` passes over without a note: the GPU in the processor of most laptops, and
    those of the host of a container, if torch is not built for them."""
    if requested != "auto":
        return set()
    build = machine.torch_build()
    built: dict[Vendor, str | None] = {"intel": build.xpu, "hidden nvidia": build.cuda}
    return {vendor for vendor, version in built.items() if version is None}


def _cpu(notes: tuple[str, ...] = ()) -> Devices:
    return Devices("cpu", 1, None, notes=notes)


def _hidden_nvidia(machine: Machine) -> Devices | Reason:
    what = "the host of this container has NVIDIA GPUs, but the container has no device file of them"
    return Reason(what, "start it with --gpus all or --nv")


_Find = Callable[[Machine], Devices | Reason]
_NVIDIA: dict[Vendor, _Find] = {"nvidia": nvidia_devices.find, "hidden nvidia": _hidden_nvidia}
_VENDORS: dict[Requested, dict[Vendor, _Find]] = {
    "auto": {**_NVIDIA, "amd": torch_devices.amd, "intel": torch_devices.intel, "apple": torch_devices.apple},
    "cuda": {**_NVIDIA, "amd": torch_devices.amd},
    "xpu": {"intel": torch_devices.intel},
    "mps": {"apple": torch_devices.apple},
}
_SIGNS: dict[Requested, str] = {
    "cuda": "neither /dev/nvidia* nor /dev/kfd is there",
    "xpu": "no Intel GPU is in /sys/class/drm",
    "mps": "it is not a Mac",
}
