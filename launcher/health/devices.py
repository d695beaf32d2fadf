"""Devices and memory of a machine, and the processes that occupy them."""

import os
from contextlib import suppress
from dataclasses import dataclass

import psutil

from launcher.config.format import human, plural, some
from launcher.health.finding import Check, Finding
from launcher.plan.device_facts import Devices
from launcher.plan.gpu_report import GpuReport
from launcher.plan.machine import TorchBuild

_DEVICES, _MEMORY, _LOAD = Check("devices", "devices"), Check("machine", "memory"), Check("machine", "processor")
_FREE = 0.1
"""Share of the memory that has to be free, below which doctor warns."""


def findings(found: Devices, requested: int | None, build: TorchBuild, report: GpuReport | None) -> list[Finding]:
    """Return the findings about devices.

    `requested`: devices of a node in the profile; None: all. `report`: answer of NVML; None: it was not asked.
    """
    if found.reason is not None:
        return [_DEVICES.failure(found.reason.what, found.reason.advice or "set device in the profile to another type")]
    if found.kind == "cpu":
        cpu = _DEVICES.ok(f"torch {build.version}: the CPU, {os.cpu_count()} cores")
        return [cpu, *[_DEVICES.warning(*_split(note)) for note in found.notes]]
    driver = f", driver {report.driver}" if report is not None and report.driver else ""
    cuda = f", CUDA {build.cuda}" if build.cuda else ""
    lines = [_DEVICES.ok(f"{plural(found.count, 'device')}: {_names(found)}; torch {build.version}{cuda}{driver}")]
    if requested is not None and requested > found.count:
        what = f"{requested} devices are in the profile, and {found.count} can be used"
        lines[0] = _DEVICES.failure(what, "set devices_per_node to what is here, or look at CUDA_VISIBLE_DEVICES")
    lines += [_DEVICES.failure(*_split(device.problem)) for device in found.each if device.problem]
    lines += [_DEVICES.warning(*_split(device.warning)) for device in found.each if device.warning]
    return lines + [_DEVICES.warning(*_split(note)) for note in found.notes] + _occupied(report)


def _names(found: Devices) -> str:
    memory = "" if found.memory is None else f", {human(found.memory)} each"
    return f"{some(sorted({device.name for device in found.each if device.name})) or found.kind}{memory}"


def _split(text: str) -> tuple[str, str]:
    """Return a sentence and the advice that follows it in parentheses."""
    what, opened, advice = text.rpartition(" (")
    return (what, advice.removesuffix(")")) if opened and text.endswith(")") else (text, "look at the plan's notes")


def _occupied(report: GpuReport | None) -> list[Finding]:
    """Return a finding about the processes on GPUs; none if there are none."""
    each = [(index, one) for index, gpu in enumerate(report.gpus if report else ()) for one in gpu.processes]
    if not each:
        return []
    shown = some([f"process {one.pid} on GPU {index} ({human(one.memory or 0)})" for index, one in each], 4)
    return [Check("devices", "occupied by").ok(shown)]


@dataclass(frozen=True)
class Memory:
    """Memory of a machine in bytes, its load (runnable processes), and its largest processes with their bytes."""

    total: int
    available: int
    load: float
    cores: int
    largest: tuple[tuple[int, str, int], ...] = ()


def memory() -> Memory:
    """Return the memory and the load of this machine."""
    state = psutil.virtual_memory()
    sizes = list[tuple[int, str, int]]()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            sizes.append((process.pid, process.name(), process.memory_info().rss))
    largest = sorted(sizes, key=lambda one: -one[2])[:3]
    cores = len(psutil.Process().cpu_affinity() or ()) if psutil.LINUX else os.cpu_count() or 1
    return Memory(state.total, state.available, os.getloadavg()[0], cores, tuple(largest))


def memory_findings(state: Memory, needed: int | None) -> list[Finding]:
    """Return the findings about host memory and load. `needed`: bytes of the node in the profile; None: unknown."""
    by = [f"process {pid} ({name}) {human(size)}" for pid, name, size in state.largest if size > 2**28]
    sizes = f"{human(state.available)} of {human(state.total)} free"
    if needed is not None and needed > state.total:
        what = f"{human(state.total)} are here, and the profile says {human(needed)}"
        memory = _MEMORY.failure(what, "correct memory_per_device in the profile")
    elif state.available < _FREE * state.total:
        memory = _MEMORY.warning(
            f"{sizes}; most is used by {some(by) or 'small processes'}", "end what is not needed, or wait for it"
        )
    else:
        memory = _MEMORY.ok(f"{sizes}{', the largest: ' + by[0] if by else ''}")
    busy = f"{state.load:.1f} processes run on {plural(state.cores, 'core')}"
    if state.load > 1.5 * state.cores:
        return [memory, _LOAD.warning(busy, "end the others, or wait for them: ranks will be slow (top shows them)")]
    return [memory, _LOAD.ok(busy)]


def nvidia_is_here(kind: str, build: TorchBuild) -> bool:
    """Return whether NVML can be asked about devices of this type."""
    return kind == "cuda" and build.hip is None
