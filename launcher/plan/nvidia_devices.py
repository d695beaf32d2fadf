"""NVIDIA GPUs and MIG slices that a process may use, from NVML's report and CUDA's environment variables."""

from collections.abc import Sequence

from launcher.config.format import human, plural
from launcher.plan import visible_devices
from launcher.plan.device_facts import Device, Devices, Reason, smallest
from launcher.plan.gpu_report import GpuFacts, GpuReport
from launcher.plan.machine import Machine, TorchBuild
from launcher.plan.torch_devices import of_torch, other_build

BF16_SINCE = (8, 0)
"""Compute capability of the first GPUs with bf16 (Ampere)."""
_ORDER = "CUDA_DEVICE_ORDER"
_OLDEST_OF_CUDA = {13: (7, 5)}
"""Compute capability of the oldest GPUs that a major version of CUDA supports (its release notes)."""
_LEAVE_OUT = f"leave it out of {visible_devices.VARIABLE}"
_MOSTLY = 0.5
"""Share of a device's memory in use from which the plan warns."""


def find(machine: Machine) -> Devices | Reason:
    """Return the NVIDIA GPUs that this process may use, or why it can use none."""
    build = machine.torch_build()
    visible = machine.environment.get(visible_devices.VARIABLE)
    if visible is not None and visible.strip() in ("", "-1"):
        return Reason(f"{visible_devices.VARIABLE} hides all GPUs", "unset it to use them")
    if build.cuda is None:
        return other_build(build, "NVIDIA GPUs", "CUDA")
    report = machine.gpus()
    if report.stuck:
        return Reason(report.error, report.advice)
    problem = Reason(report.error, report.advice) if report.error else _driver_problem(report, build)
    if problem is None:
        return _visible_gpus(report, machine, build)
    answer = machine.torch()  # a container may have CUDA without NVML, or a library that makes up for an old driver
    return of_torch(answer) if answer.kind == "cuda" else problem


def _driver_problem(report: GpuReport, build: TorchBuild) -> Reason | None:
    """Return why torch cannot use the driver; None: it can.

    A driver runs programs of its own major version of CUDA and of older ones (CUDA compatibility guide).
    """
    if report.cuda is None or build.cuda is None or report.cuda[0] >= int(build.cuda.partition(".")[0]):
        return None
    supported = ".".join(map(str, report.cuda))
    what = f"the NVIDIA driver {report.driver} is too old: it supports CUDA {supported}, torch {build.version} needs "
    advice = f"update the driver, or install a torch that is built for CUDA {report.cuda[0]}"
    return Reason(f"{what}{build.cuda}", advice)


def _visible_gpus(report: GpuReport, machine: Machine, build: TorchBuild) -> Devices | Reason:
    """Return the GPUs and MIG slices that CUDA shows to this process."""
    if not report.gpus:
        advice = "Slurm: request them with --gres=gpu:N; a container: --gpus all"
        return Reason("the NVIDIA driver lists no GPU that this process may use", advice)
    value = machine.environment.get(visible_devices.VARIABLE)
    gpus = {gpu.uuid: gpu for gpu in report.gpus}
    slices = {part.uuid: part for gpu in report.gpus for part in gpu.slices}
    selected = visible_devices.select(value, {gpu.uuid: [part.uuid for part in gpu.slices] for gpu in report.gpus})
    if not selected.uuids:
        what = f"{visible_devices.VARIABLE}={value} names no GPU of this machine, which has {len(gpus)}"
        return Reason(what, "unset it to use all")
    whole = [gpus[uuid] for uuid in selected.uuids if uuid in gpus]
    parts = [slices[uuid] for uuid in selected.uuids if uuid in slices]
    parts += [part for gpu in whole if gpu.mig for part in gpu.slices]
    usable = [gpu for gpu in whole if not gpu.mig] or parts
    if not usable:
        return _without_slices(whole[0])
    old = [_too_old(index, facts, build) for index, facts in enumerate(usable)]
    if old[0] is not None and None not in old:
        return old[0]
    each = tuple(_device(index, facts, machine, build) for index, facts in enumerate(usable))
    ambiguous = _ambiguous_order(report.gpus, machine)
    memory = smallest([gpu.memory for gpu in report.gpus] if ambiguous else [device.memory for device in each])
    notes = [_invalid_entry(value, selected.invalid), ambiguous, _unused_slices(usable, whole)]
    return Devices("cuda", len(each), memory, each, sliced=usable is parts, notes=tuple(filter(None, notes)))


def _without_slices(gpu: GpuFacts) -> Reason:
    what = f"MIG is on at {gpu.name}, and it has no slices: nothing can run on it"
    advice = "create slices with nvidia-smi mig -cgi PROFILE -C, or turn MIG off with nvidia-smi -mig 0"
    return Reason(what, advice, mistake=True)


def _unused_slices(usable: Sequence[GpuFacts], whole: Sequence[GpuFacts]) -> str:
    """Return a note if GPUs with MIG are visible beside others; empty: they are not."""
    sliced = [gpu for gpu in whole if gpu.mig]
    if not sliced or usable[0] not in whole:
        return ""
    what = f"MIG is on at {plural(len(sliced), 'GPU')}, and slices are not used beside whole GPUs"
    return f"{what} (name a slice in {visible_devices.VARIABLE} to train on it)"


def _device(index: int, facts: GpuFacts, machine: Machine, build: TorchBuild) -> Device:
    bf16 = facts.capability is None or facts.capability >= BF16_SINCE
    label, old = _label(index, facts), _too_old(index, facts, build)
    problem = old.with_advice(_LEAVE_OUT) if old else _taken(facts, label, machine)
    return Device(facts.name, facts.memory, bf16, problem, "" if problem else _crowded(facts, label, machine))


def _label(index: int, facts: GpuFacts) -> str:
    return f"GPU {index} ({facts.name})"


def _too_old(index: int, facts: GpuFacts, build: TorchBuild) -> Reason | None:
    """Return a reason if the CUDA of torch has no code for a GPU; None: it has."""
    major = int((build.cuda or "0").partition(".")[0])
    oldest = _OLDEST_OF_CUDA.get(major, (0, 0))
    if facts.capability is None or facts.capability >= oldest:
        return None
    have, need = (".".join(map(str, version)) for version in (facts.capability, oldest))
    what = (
        f"{_label(index, facts)} has compute capability {have}, and CUDA {major} of torch {build.version} needs {need}"
    )
    return Reason(what, f"install a torch that is built for CUDA {major - 1}")


def _taken(facts: GpuFacts, label: str, machine: Machine) -> str:
    """Return a message if the compute mode keeps ranks out; empty: it does not."""
    if facts.mode == "prohibited":
        return f"{label} is in compute mode prohibited: no process can use it (nvidia-smi -c 0 permits it)"
    others = [process.pid for process in facts.processes if machine.is_foreign(process.pid)]
    if facts.mode == "exclusive" and others:
        what = f"{label} is in exclusive compute mode, and process {others[0]} has it"
        return f"{what} (wait for that process, or {_LEAVE_OUT})"
    return ""


def _crowded(facts: GpuFacts, label: str, machine: Machine) -> str:
    """Return a message if other processes use most of a device's memory; empty: they do not."""
    if facts.memory is None or facts.used is None or facts.used <= _MOSTLY * facts.memory:
        return ""
    others = [process for process in facts.processes if machine.is_foreign(process.pid)]
    if facts.processes and not others:
        return ""
    sizes = [f"{one.pid} ({'?' if one.memory is None else human(one.memory)})" for one in others]
    by = f"by process {', '.join(sizes)}" if sizes else "by processes that are not visible here"
    what = f"{label}: {human(facts.used)} of {human(facts.memory)} are in use {by}"
    return f"{what} (a rank there may run out of memory: wait, or choose others with CUDA_VISIBLE_DEVICES)"


def _ambiguous_order(gpus: Sequence[GpuFacts], machine: Machine) -> str:
    """Return a note if indices may name other GPUs than they seem to; empty: they do not.

    CUDA counts from the fastest GPU, NVML and nvidia-smi by the PCI bus.
    """
    value = machine.environment.get(visible_devices.VARIABLE, "").strip()
    names = dict.fromkeys(gpu.name for gpu in gpus)
    if len(names) == 1 or not value[:1].isdigit() or machine.environment.get(_ORDER) == "PCI_BUS_ID":
        return ""
    what = f"{visible_devices.VARIABLE}={value} counts from the fastest GPU, and there are different ones here"
    advice = f"{_ORDER}=PCI_BUS_ID counts as nvidia-smi does; the plan takes the smallest memory of all"
    return f"{what}: {', '.join(names)} ({advice})"


def _invalid_entry(value: str | None, invalid: str) -> str:
    if not invalid:
        return ""
    return f"{visible_devices.VARIABLE}={value}: {invalid} is no GPU here: CUDA hides it and those after it"
