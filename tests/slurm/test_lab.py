"""The lab does what the other tests take for granted."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support import slurm_lab
from support.slurm_lab import HOSTS, Broken, Lab, until


def test_a_job_runs_on_two_nodes_each_with_its_own_name(lab):
    id = lab.sbatch("srun hostname; exit 3", "--nodes=2", "--gpus-per-node=2")
    over = lab.over(id)
    assert (over["JobState"], over["ExitCode"]) == ("FAILED", "3:0")
    assert sorted(lab.log(id).split()) == lab.nodes[:2]


def test_a_node_that_lost_power_is_lost_to_its_job_and_comes_back(lab):
    id = lab.sbatch("srun sleep 300", "--nodes=1")
    node = lab.wait(id, "RUNNING")["NodeList"]
    until(lambda: lab.pids(node, "sleep 300"), 10, "the task runs")
    lab.crash(node)
    lab.down(node)
    assert lab.wait(id, "PENDING", 10)["Restarts"] == "1"
    with pytest.raises(Broken, match="off"):
        lab.pids(node)
    lab.boot(node)
    assert lab.states()[node] == "idle"


def test_what_runs_outlives_a_slurmd(lab):
    id = lab.sbatch("srun sleep 300", "--nodes=1")
    node = lab.wait(id, "RUNNING")["NodeList"]
    until(lambda: lab.pids(node, "sleep 300"), 10, "the task runs")
    lab.kill_slurmd(node)
    assert not [p for p in lab.pids(node) if p.argv[0] == "slurmd"]
    assert lab.pids(node, "sleep 300")
    lab.start_slurmd(node)
    assert lab.wait(id, "RUNNING")["Restarts"] == "0"


def test_a_node_can_miss_a_folder_and_a_name(lab, tmp_path):
    first, second, _ = lab.nodes
    (tmp_path / "there").touch()
    lab.hide(first, tmp_path)
    lab.read_only(second, tmp_path)
    lab.forget(first, second)
    assert lab.exec(first, ["ls", str(tmp_path)]).stdout == ""
    assert lab.exec(second, ["ls", str(tmp_path)]).stdout == "there\n"
    assert lab.exec(second, ["touch", str(tmp_path / "new")]).returncode != 0
    assert lab.exec(first, ["getent", "hosts", second]).returncode != 0
    assert lab.exec(second, ["getent", "hosts", second]).stdout.split() == [lab.address(second), second]
    lab.reset()
    assert lab.exec(first, ["ls", str(tmp_path)]).stdout == "there\n"


def test_two_labs_live_side_by_side_and_leave_nothing(lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("second")
    second = Lab.start(folder, 1)
    try:
        assert second.nodes[0] not in lab.nodes
        assert second.over(second.sbatch("srun hostname"))["JobState"] == "COMPLETED"
        assert lab.over(lab.sbatch("srun hostname"))["JobState"] == "COMPLETED"
    finally:
        second.end()
    assert str(folder) not in HOSTS.read_text()
    assert not [p for p in psutil.process_iter() if str(folder) in " ".join(_argv(p))]
    assert set(lab.states().values()) == {"idle"}


def test_the_next_lab_ends_one_whose_owner_was_killed(lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("orphan") / "lab"
    code = "import sys,os,pathlib; from slurm_lab import Lab; Lab.start(pathlib.Path(sys.argv[1]), 1); os._exit(9)"
    here = Path(slurm_lab.__file__).parent
    assert subprocess.run([sys.executable, "-c", code, str(folder)], cwd=here, timeout=60, check=False).returncode == 9
    assert str(folder) in HOSTS.read_text()
    Lab.start(tmp_path_factory.mktemp("next"), 1).end()
    assert str(folder) not in HOSTS.read_text()
    time.sleep(0.2)
    assert not [p for p in psutil.process_iter() if str(folder) in " ".join(_argv(p))]


def _argv(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []
