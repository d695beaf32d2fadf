"""Whatever starts the ranks, they train what `launcher run` trains: the same samples, the same losses."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import support
import torch
from support import paused_run

from launcher import worker
from launcher.config import load
from launcher.distributed.process_group import ProcessGroup

WORKER = ("-m", "launcher.worker", "recipe.yaml")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


def tool(name):
    """A starter by its path: of this environment, or of the system."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    support.needs(None if found else f"{name} is not installed")
    return found


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def torchrun():
    return [[*TORCHRUN, "--standalone", "--nproc-per-node", "2", *WORKER]]


def torchrun_on_two_hosts():
    """Two agents, each with one rank, as on two hosts."""
    meeting = ["--rdzv-backend", "c10d", "--rdzv-id", "two", "--rdzv-endpoint", f"127.0.0.1:{port()}"]
    return [[*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", *meeting, *WORKER]] * 2


def torchrun_on_two_numbered_hosts():
    meeting = ["--master-addr", "127.0.0.1", "--master-port", str(port()), "--nnodes", "2", "--nproc-per-node", "1"]
    return [[*TORCHRUN, *meeting, "--node-rank", str(node), *WORKER] for node in (0, 1)]


def accelerate():
    many = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
    plain = ["--mixed_precision", "no", "--dynamo_backend", "no"]
    return [[tool("accelerate"), "launch", *many, *plain, *WORKER]]


def deepspeed():
    return [[tool("deepspeed"), "--num_gpus", "2", "--master_port", str(port()), "--module", *WORKER[1:]]]


def open_mpi():
    options = ["--allow-run-as-root", "--oversubscribe", "-np", "2"]
    return [[tool("mpirun.openmpi"), *options, sys.executable, *WORKER]]


def mpich():
    return [[tool("mpirun.mpich"), "-np", "2", sys.executable, *WORKER]]


WAYS = [
    torchrun, torchrun_on_two_hosts, torchrun_on_two_numbered_hosts, accelerate, deepspeed, open_mpi, mpich
]  # fmt: skip


def clean():
    """This environment without what a scheduler or a starter may have left in it."""
    left = ("SLURM_", "OMPI_", "PMI", "MASTER_", "TORCHELASTIC_")
    exact = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return {k: v for k, v in os.environ.items() if not k.startswith(left) and k not in exact}


def ended(commands, *overrides):
    """Start them together and wait. The exit codes, and what all have said."""
    started = [
        subprocess.Popen(
            [*command, *overrides], env=clean(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for command in commands
    ]
    said = [one.communicate(timeout=180)[0] for one in started]
    return [one.returncode for one in started], "\n".join(said)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of two ranks by `launcher run`."""
    folder = tmp_path_factory.mktemp("starts")
    before = Path.cwd()
    os.chdir(folder)
    support.write(support.small("here", train__precision="fp64"))
    support.launcher("run", "recipe.yaml", "--ranks", 2)
    yield folder
    os.chdir(before)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_each_start_command_trains_what_launcher_run_trains(runs, way):
    codes, said = ended(way(), f"name={way.__name__}")
    assert set(codes) == {0}, said
    support.same_run("runs/here", f"runs/{way.__name__}", 1e-13)
    plan = json.loads(Path(f"runs/{way.__name__}/plan.json").read_text())
    assert (plan["ranks"], plan["nodes"]) == (2, 2 if "hosts" in way.__name__ else 1)
    assert not Path("runs/.rendezvous").exists()


def test_alone_it_is_one_rank(runs):
    codes, said = ended([[sys.executable, *WORKER]], "name=alone")
    assert codes == [0], said
    support.same_run("runs/here", "runs/alone", 1e-12)


@pytest.mark.parametrize("way", [torchrun, open_mpi, mpich], ids=lambda way: way.__name__)
def test_what_is_wrong_is_told_once(runs, way):
    codes, said = ended(way(), "name=wrong", "train.global_batch=1")
    assert codes != [0]
    assert said.count("train.global_batch: 1 samples cannot be shared by 2 ranks") == 1
    assert not Path("runs/wrong").exists()


def test_a_rank_that_waits_for_the_others_heeds_a_signal(runs):
    told = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port())}
    one = subprocess.Popen(
        [sys.executable, *WORKER, "name=waits"], env={**clean(), **told}, stderr=subprocess.PIPE, text=True
    )
    listens = time.monotonic() + 60
    while b"SigCgt" not in (status := Path(f"/proc/{one.pid}/status").read_bytes()) or not (
        int(status.split(b"SigCgt:")[1].split()[0], 16) >> (signal.SIGTERM - 1) & 1
    ):
        assert time.monotonic() < listens
        time.sleep(0.1)
    one.terminate()
    assert one.communicate(timeout=30)[1] == "asked to stop before all ranks had joined: nothing was trained\n"
    assert one.returncode == 75
    assert not Path("runs/waits").exists()


@pytest.mark.parametrize("first", [0, 1])
def test_ranks_heed_a_signal_while_rank_0_prepares(workspace, tmp_path, first):
    """Rank 0 takes the other along; that one leaves alone, from a broadcast that has not come. 6 s each, since no other
    test has ranks that wait for data."""
    paused_run.write(seed=sum(map(ord, str(tmp_path))))
    Path("hold-preparing").touch()
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port())}
    ranks = [
        subprocess.Popen(
            [sys.executable, *WORKER], env={**clean(), **shared, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    try:
        support.wait_for(Path("at-preparing").exists, 600)
        for rank in (ranks[first], *([ranks[0]] if first else [])):
            rank.terminate()
            rank.wait(120)
        said = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert said == ["asked to stop before training began: nothing was trained\n"] * 2
    assert [rank.returncode for rank in ranks] == [75, 75]
    assert not Path("runs/held/metrics.jsonl").exists()


def test_an_environment_that_contradicts_itself_is_told_at_once(runs):
    for told, what in (
        ({"RANK": "0"}, "RANK=0 is set and WORLD_SIZE is not"),
        ({"SLURM_JOB_NUM_NODES": "2"}, "this allocation has 2 nodes and the worker was started alone on one of them"),
    ):
        done = subprocess.run(
            [sys.executable, *WORKER], env={**clean(), **told}, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith(what)


def test_a_rank_that_fails_is_heard_before_those_that_lost_it(runs):
    Path("bad.py").write_text(
        "from launcher.train import loop\nfrom launcher import worker\nimport os, sys\nstep = loop.begin_step\n"
        "def bad(run, batch, *more):\n"
        "    if run.process.rank == 1 and run.progress.step == 2:\n        raise OSError('the disk is on fire')\n"
        "    return step(run, batch, *more)\n"
        "loop.begin_step = bad\nsys.exit(worker.main(sys.argv[1:]))\n"
    )
    codes, said = ended(
        [[tool("mpirun.openmpi"), *open_mpi()[0][1:5], sys.executable, "bad.py", "recipe.yaml"]], "name=bad"
    )
    assert codes == [1], said
    assert "rank 1 failed at step 3: OSError: the disk is on fire\n" in said
    assert said.count("failed at step") == 1


def test_a_failed_rank_ends_one_that_notices_nothing(runs):
    """What NCCL and srun do: nobody ends the other rank, which waits where it handles no signal and no closed socket.
    Without a notice it would wait until the timeout of the group."""
    Path("stuck.py").write_text(
        "from launcher.distributed import failure_notice\nfrom launcher.train import loop\n"
        "from launcher import worker\nimport sys, time\nfailure_notice._GRACE_SECONDS = 1\n"
        "def step(run, batch, *more):\n"
        "    if run.process.rank == 0:\n        raise OSError('the disk is on fire')\n"
        "    time.sleep(600)\n"
        "loop.begin_step = step\nsys.exit(worker.main(sys.argv[1:]))\n"
    )
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "stuck.py", "recipe.yaml", "name=stuck"], stderr=subprocess.PIPE, text=True,
            env={**clean(), **address, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    said = [one.communicate(timeout=100)[1] for one in started]
    assert [one.returncode for one in started] == [1, 1]
    assert "rank 0 failed at step 1: OSError: the disk is on fire" in said[0]
    assert "rank 1 ended because rank 0 has failed (see the log of that rank)" in said[1]


def test_a_launcher_without_its_shipped_profile_is_reported_to_the_ranks_that_wait(monkeypatch):
    monkeypatch.setattr(load, "shipped", lambda folder: [])
    folder, problems = worker._prepare(["recipe.yaml"], ProcessGroup(0, 1, torch.device("cpu")))
    assert folder == ""
    assert [line.partition(" (")[0] for line in problems] == ["local: no such file, nor a shipped one of cluster/"]
