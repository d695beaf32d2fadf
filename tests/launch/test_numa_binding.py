import os
import shutil

import pytest
from torch.numa.binding import AffinityMode, NumaOptions

from launcher.launch import Launch, RendezvousSpec, elastic_agent, numa_binding


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.rstrip("_")).write_text(f"{text}\n")


@pytest.fixture
def system(tmp_path, monkeypatch):
    """The kernel's list of two NUMA nodes with cores and one with memory alone, two GPUs of an NVIDIA machine and its
    console, and a process that may use all cores."""
    for number, cores in enumerate(("0-1,4", "2-3,5", "")):
        write(tmp_path / f"devices/system/node/node{number}", cpulist=cores)
    for node in (0, 1):
        write(tmp_path / f"bus/pci/devices/0000:{node}7:00.0", vendor="0x10de", class_="0x030200", numa_node=node)
    write(tmp_path / "bus/pci/devices/0000:03:00.0", vendor="0x1a03", class_="0x030000", numa_node=-1)
    write(tmp_path / "bus/pci/devices/0000:17:00.1", vendor="0x10de", class_="0x040300", numa_node=-1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    return tmp_path


def test_ranks_of_gpus_are_bound_to_the_node_of_theirs(system):
    assert numa_binding.options("cuda", system) == NumaOptions(
        AffinityMode.NODE, should_fall_back_if_binding_fails=True
    )


def test_nothing_is_bound_on_a_cpu_on_one_node_or_without_numactl(system, monkeypatch):
    assert numa_binding.options("cpu", system) is None
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 4})
    assert numa_binding.options("cuda", system) is None
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert numa_binding.options("cuda", system) is None


def test_a_kernel_without_numa_binds_nothing(system):
    assert numa_binding.options("cuda", system / "nowhere") is None


@pytest.mark.parametrize("node", [-1, None])
def test_nothing_is_bound_if_the_node_of_a_gpu_is_not_known(system, node):
    """As in a virtual machine: torch would bind all ranks to node 0."""
    for gpu in (system / "bus/pci/devices").glob("*7:00.0"):
        if node is None:
            (gpu / "vendor").unlink()
        else:
            write(gpu, numa_node=node)
    assert numa_binding.options("cuda", system) is None


def test_the_agent_gets_the_binding(tmp_path, monkeypatch):
    bound = NumaOptions(AffinityMode.NODE, should_fall_back_if_binding_fails=True)
    monkeypatch.setattr(numa_binding, "options", lambda device: bound if device == "cuda" else None)
    made = {
        device: elastic_agent._agent(Launch(tmp_path, 1, device, 1), RendezvousSpec(tmp_path))
        for device in ("cuda", "cpu")
    }
    assert made["cuda"].get_worker_group().spec.numa_options == bound
    assert made["cpu"].get_worker_group().spec.numa_options is None
