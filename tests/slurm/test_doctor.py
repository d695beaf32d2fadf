"""`launcher doctor` on nodes of Slurm."""

import json
from pathlib import Path

import pytest
import support

from launcher.config import load, plugins
from launcher.schedulers import _slurm_doctor
from launcher.tools.doctor import other_nodes


def write_profile(**slurm):
    profile = {"name": "lab", "kind": "slurm", "nodes": 2, "devices_per_node": 1, "device": "cpu", "interface": "lo"}
    Path("lab.yaml").write_text(json.dumps({**profile, "slurm": {"cpus_per_node": 1, **slurm}}))


def test_the_nodes_of_a_short_job_are_checked(lab, workspace, monkeypatch):
    """Two real nodes, their host names, shared folder, clocks and ranks, which no test without Slurm does."""
    for name, value in lab.env.items():
        monkeypatch.setenv(name, value)
    write_profile()
    done = support.launcher("doctor", "--cluster", "lab.yaml", "--json", code=None, timeout=900)
    checks = json.loads(done.stdout)["checks"]
    nodes = sorted({line["host"] for line in checks} & set(lab.nodes))
    assert len(nodes) == 2, checks
    found = {(line["check"], line["host"]): line for line in checks}
    for check in ("shared folder", "nodes", "clocks"):
        assert found[check, ""]["level"] == "ok", found[check, ""]
    assert ("matrix product", "") in found  # on a busy machine one rank may be slow
    assert any(line["check"] == "Slurm" and line["level"] == "ok" for line in checks)
    assert not Path(".launcher-doctor").exists()


def test_nodes_that_are_busy_are_no_failure(lab, workspace, monkeypatch):
    for name, value in lab.env.items():
        monkeypatch.setenv(name, value)
    write_profile()
    lab.wait(lab.sbatch("sleep 60", "--nodes=3", "--exclusive"), "RUNNING")
    monkeypatch.setattr(_slurm_doctor, "IMMEDIATE", 2)
    profile, _ = load.profile("lab.yaml", [])
    commands = plugins.scheduler(profile.scheduler).node_commands(profile, ["-c", "pass"])
    (found,) = other_nodes.steps(commands, 60)
    assert (found.level, found.cure) == ("warning", "run it inside an allocation (salloc), or later"), found


@pytest.mark.parametrize(("partition", "level"), [("lab", "ok"), (None, "ok"), ("nowhere", "failure")])
def test_the_commands_and_the_partition(partition, level, lab, monkeypatch):
    for name, value in lab.env.items():
        monkeypatch.setenv(name, value)
    assert _slurm_doctor.findings(partition)[0].level == level
