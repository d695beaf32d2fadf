import os
import shutil

import pytest
from torch.numa.binding import AffinityMode, NumaOptions

from launcher.launch import Launch, RendezvousSpec, elastic_agent, numa_binding


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    """The kernel's list of two NUMA nodes with cores and one with memory alone, and a process that may use all."""
    for number, cores in enumerate(("0-1,4\n", "2-3,5\n", "\n")):
        (tmp_path / f"node{number}").mkdir()
        (tmp_path / f"node{number}" / "cpulist").write_text(cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    return tmp_path


def test_ranks_of_gpus_are_bound_to_the_node_of_theirs(nodes):
    assert numa_binding.options("cuda", nodes) == NumaOptions(AffinityMode.NODE, should_fall_back_if_binding_fails=True)


def test_nothing_is_bound_on_a_cpu_on_one_node_or_without_numactl(nodes, monkeypatch):
    assert numa_binding.options("cpu", nodes) is None
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 4})
    assert numa_binding.options("cuda", nodes) is None
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert numa_binding.options("cuda", nodes) is None


def test_a_kernel_without_numa_binds_nothing(nodes):
    assert numa_binding.options("cuda", nodes / "nowhere") is None


def test_the_agent_gets_the_binding(tmp_path, monkeypatch):
    bound = NumaOptions(AffinityMode.NODE, should_fall_back_if_binding_fails=True)
    monkeypatch.setattr(numa_binding, "options", lambda device: bound if device == "cuda" else None)
    made = {
        device: elastic_agent._agent(Launch(tmp_path, 1, device, 1), RendezvousSpec(tmp_path))
        for device in ("cuda", "cpu")
    }
    assert made["cuda"].get_worker_group().spec.numa_options == bound
    assert made["cpu"].get_worker_group().spec.numa_options is None
