"""A rank that another starter has started: its plan is made for the devices that the ranks have."""

from types import SimpleNamespace

import pytest
import support
import torch
from support.fake_nvml import FakeMachine, FakeNvml, gpus

from launcher import build, worker
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.distributed.launch_env import LauncherInfo, RankInfo
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.stop_requests import StopMonitor


@pytest.mark.parametrize(("info", "device"), [(None, None), (LauncherInfo("folder", 1, 1.0, "cpu"), "cpu")])
def test_behind_the_launcher_a_rank_gets_the_device_of_its_plan(monkeypatch, info, device):
    monkeypatch.setattr(worker.process_group, "connect", lambda rank, kind, *more: kind)
    assert worker._join("recipe", StopMonitor(), info) == device


def test_the_plan_is_for_the_devices_of_the_connected_ranks(monkeypatch):
    """Each of two ranks on each of two hosts sees one GPU, as under srun --gpus-per-task=1."""
    asked = []

    def validate(recipe, cluster, ranks, wrong, devices):
        asked.append((cluster.nodes, cluster.device, ranks, devices.kind, devices.count))
        raise UserError("enough")

    monkeypatch.setattr(worker.run_setup, "validate", validate)
    monkeypatch.setattr(worker.rank_device, "rank_info", lambda: RankInfo(0, 4, 0, 2))
    monkeypatch.setattr(worker.rank_device.topology, "ThisMachine", lambda: FakeMachine(FakeNvml(gpus(1))))
    for device in (torch.device("cuda", 0), torch.device("cpu")):
        assert worker._prepare(["quickstart-pretrain"], ProcessGroup(0, 4, device)) == ("", ["enough"])
    assert asked == [((2, 2), "cuda", 2, "cuda", 2), ((2, 2), "cpu", 2, "cpu", 1)]


def test_the_precision_is_checked_before_a_model_is_built(monkeypatch):
    def refuse(process, precision):
        raise UserError(f"{process.device}: {precision}")

    monkeypatch.setattr(build.rank_device, "require_precision", refuse)
    recipe = Recipe.model_validate(support.mlm(train__precision="bf16"))
    run = SimpleNamespace(recipe=recipe, facts=None, cluster=Cluster())
    with pytest.raises(UserError, match="cpu: bf16"):
        build.build(run, ProcessGroup(0, 1, torch.device("cpu")), StopMonitor(), None)
