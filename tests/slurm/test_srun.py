"""Every rank started by srun, without the launcher: on one node and on two, and what may be wrong with it."""

import os
import sys
import time
from pathlib import Path

import pytest
import support

WORKER = f"{sys.executable} -m launcher.worker recipe.yaml"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a run of two ranks by `launcher run`."""
    folder = tmp_path_factory.mktemp("srun")
    before = Path.cwd()
    os.chdir(folder)
    support.write(support.small("here", train__precision="fp64"))
    support.launcher("run", "recipe.yaml", "--ranks", 2)
    yield folder
    os.chdir(before)


def same(one, other):
    support.same_run(one, other, 1e-13)


def submit(lab, folder, line, *options):
    return lab.sbatch(f"{line}\nexit $?", "--chdir", str(folder), *options)


def test_every_rank_by_srun_on_two_nodes(lab, here):
    two = submit(lab, here, f"srun {WORKER} name=two", "--nodes=2", "--ntasks=2")
    assert lab.over(two, 120)["JobState"] == "COMPLETED", lab.log(two)
    same("runs/here", "runs/two")
    assert not Path("runs/.rendezvous").exists()


def test_steps_of_a_job_side_by_side_on_one_node_meet_each_on_their_own(lab, here):
    lines = "\n".join(f"srun --exact -n 2 {WORKER} name=side{i} &" for i in (0, 1)) + "\nwait"
    id = submit(lab, here, lines, "--nodes=1", "--ntasks=4")
    assert lab.over(id, 120)["JobState"] == "COMPLETED", lab.log(id)
    for i in (0, 1):
        same("runs/here", f"runs/side{i}")


def test_torchrun_with_an_agent_a_node(lab, here):
    agent = f"{sys.executable} -m torch.distributed.run --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d"
    line = f"srun {agent} --rdzv-id $SLURM_JOB_ID --rdzv-endpoint $SLURMD_NODENAME:29501 -m launcher.worker recipe.yaml"
    id = submit(lab, here, f"{line} name=agents", "--nodes=2", "--ntasks-per-node=1")
    assert lab.over(id, 120)["JobState"] == "COMPLETED", lab.log(id)
    same("runs/here", "runs/agents")


def test_a_worker_alone_in_an_allocation_of_several_nodes_is_told(lab, here):
    id = submit(lab, here, f"{WORKER} name=alone", "--nodes=2")
    assert lab.over(id)["ExitCode"] == "2:0"
    assert lab.log(id).startswith("this allocation has 2 nodes and the worker was started alone on one of them (srun ")


def test_torchrun_in_each_task_is_told(lab, here):
    agent = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 1 -m launcher.worker recipe.yaml"
    id = submit(lab, here, f"srun {agent} name=each", "--nodes=2", "--ntasks=2")
    assert lab.over(id)["JobState"] == "FAILED"
    assert "srun started 2 tasks, and torchrun in each a world of 1 agent(s) of its own (" in lab.log(id)
    assert not Path("runs/each").exists()


def test_a_node_that_does_not_know_the_first_by_name_finds_it_by_its_address_or_names_it(lab, here):
    first, second = lab.nodes[:2]
    lab.forget(second, first)
    begin = time.monotonic()
    id = submit(lab, here, f"srun {WORKER} name=unknown", "--nodes=2", "--ntasks=2", f"--nodelist={first},{second}")
    over = lab.over(id)
    assert over["JobState"] == "COMPLETED" or f"rank 1 on {second} cannot reach rank 0 at {first}" in lab.log(id)
    assert time.monotonic() < begin + 40


def test_a_folder_that_a_node_does_not_see_is_told(lab, here):
    first, second = lab.nodes[:2]
    lab.hide(second, here)
    line = f"srun --kill-on-bad-exit {WORKER} name=hidden"
    id = submit(lab, here, line, "--nodes=2", "--ntasks=2", f"--nodelist={first},{second}")
    assert lab.over(id, 60)["JobState"] == "FAILED", lab.log(id)
    assert f"recipe.yaml: rank 1 on {second} sees no such file in {here} (" in lab.log(id)
    assert not Path("runs/hidden").exists()


def test_a_signal_to_the_steps_saves_and_leaves(lab, here):
    id = submit(lab, here, f"srun {WORKER} name=told train.steps=100000", "--nodes=2", "--ntasks=2")
    end = time.monotonic() + 90
    while not support.steps("runs/told") and time.monotonic() < end:
        time.sleep(0.2)
    lab.run("scancel", "--signal=TERM", id)
    assert lab.over(id)["ExitCode"] == "75:0", lab.log(id)
    newest = max(Path("runs/told/checkpoints").glob("step-*"))
    assert (newest / "COMPLETE").exists()
