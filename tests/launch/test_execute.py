"""Starting, stopping and failing, through the command line, with real ranks."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import support

from launcher.config import load
from launcher.config.cluster import Cluster
from launcher.distributed import private_tmp
from launcher.prepare import run_setup


def long(name="long", steps=400):
    support.plugin("slow", support.SLOW)
    sinks = ["jsonl", {"kind": "own.slow"}]
    return support.write(support.small(name, train__steps=steps, data__validation={"fraction": 0.2}, sinks=sinks))


def test_the_first_failing_rank_is_what_the_user_reads(workspace):
    support.plugin("faulty", support.FAULTY)
    recipe = support.write(support.small(train__steps=20, task__kind="own.faulty"))
    failed = support.launcher("run", recipe, "--ranks", 3, code=1)
    told = [line for line in failed.stderr.splitlines() if line.startswith("rank ")]
    assert len(told) == 1
    assert re.match(r"rank 1 failed at step \d: ValueError: the third law of thermodynamics; no checkpoint", told[0])
    assert "its log: runs/tiny/logs/rank1.log" in failed.stderr
    assert 'raise ValueError("the third law of thermodynamics")' in failed.stderr
    assert "torch.distributed.elastic" not in failed.stderr.replace("torch/distributed/elastic", "")
    assert {p.name for p in Path("runs/tiny/logs").iterdir()} == {"rank0.log", "rank1.log", "rank2.log"}


def test_a_signal_to_the_launcher_saves_and_leaves_with_75(workspace):
    run = support.start("run", long(), "--ranks", 2)
    support.wait_for_step("runs/long", 5, run)
    run.send_signal(signal.SIGTERM)
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 75, out
    assert "stopping: all ranks leave at the end of this step" in out
    last = max(support.steps("runs/long"))
    assert last < 400
    assert Path(f"runs/long/checkpoints/step-{last:08d}/COMPLETE").is_file()


def test_a_second_signal_ends_the_ranks_at_once(workspace):
    run = support.start("run", long(), "--ranks", 2)
    support.wait_for_step("runs/long", 5, run)
    ranks = ranks_of(run)
    for rank in ranks:
        rank.suspend()  # a rank that hangs never comes to the end of its step
    run.send_signal(signal.SIGINT)
    time.sleep(1)
    run.send_signal(signal.SIGINT)
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "stopped at once: the ranks were ended; no checkpoint was saved" in out
    assert not any(alive(rank) for rank in ranks)


def test_ranks_whose_launcher_was_killed_save_and_leave(workspace):
    run = support.start("run", long(), "--ranks", 2)
    support.wait_for_step("runs/long", 5, run)
    ranks = ranks_of(run)
    os.kill(run.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(run.pid)], timeout=30)
    private_tmp._sweep(Path("/tmp"))  # as any other start on this machine does
    run.communicate(timeout=60)
    psutil.wait_procs(ranks, timeout=30)
    assert not any(alive(rank) for rank in ranks)
    assert len(list(Path("runs/long/checkpoints").glob("step-*/COMPLETE"))) == 1
    support.launcher("run", "recipe.yaml", "train.max_tokens=64", "--ranks", 1, "sinks=[jsonl]")
    assert max(support.steps("runs/long")) == 400


def listening(process):
    """The addresses at which a start has listened at any time until its end."""
    found = set()
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    found |= {c.laddr.ip for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    return found


def node(recipe):
    """The agent of a cluster of one machine."""
    profile = {"name": "one", "kind": "ssh", "nodes": 1, "devices_per_node": 2, "device": "cpu", "memory_per_device": 8}
    one = Cluster.model_validate({**profile, "ssh": {"hosts": ["127.0.0.1"]}})
    made = run_setup.create(run_setup.validate(load.recipe(recipe), one, None))
    made.release()
    words = [sys.executable, "-m", "launcher.launch.node", str(made.folder.path), "--hosts", "127.0.0.1"]
    environment = {**os.environ, "LAUNCHER_JOB": "7"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
    return subprocess.Popen(words, text=True, env=environment, **pipes)


@pytest.mark.parametrize("how", ["run", "torchrun", "accelerate", "evaluate", "debug", "node"])
def test_nothing_listens_beyond_the_loopback(workspace, how):
    """From the first instruction to the last, of every process, whoever starts the ranks; 5 s each."""
    recipe = long(steps=30)
    if how == "evaluate":
        support.launcher("run", recipe, "--ranks", 1)
    started = {
        "run": lambda: support.start("run", recipe, "--ranks", 2),
        "torchrun": lambda: support.start("run", recipe, "--ranks", 2, "--via", "torchrun"),
        "accelerate": lambda: support.start("run", recipe, "--ranks", 2, "--via", "accelerate"),
        "evaluate": lambda: support.start("evaluate", "runs/long", "--ranks", 2),
        "debug": lambda: support.start("debug", recipe),
        "node": lambda: node(recipe),
    }[how]()
    found = listening(started)
    assert found or how == "debug", "gloo listens somewhere"
    assert found <= {"127.0.0.1", "::1"}


def test_threads_are_divided_among_ranks(workspace, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    support.plugin(
        "threads",
        support.FAULTY.replace('raise ValueError("the third law of thermodynamics")', "self.say()")
        + "\n    def say(self):\n        import torch\n        raise ValueError(f'{torch.get_num_threads()} cores')\n",
    )
    recipe = support.write(support.small(train__steps=20, task__kind="own.threads"))
    failed = support.launcher("run", recipe, "--ranks", 2, code=1)
    assert f"ValueError: {max(1, len(os.sched_getaffinity(0)) // 2)} cores" in failed.stderr


def ranks_of(run):
    """The processes of the ranks: those that hold the run's logs open."""
    found = []
    for child in psutil.Process(run.pid).children(recursive=True):
        handles = [os.path.realpath(handle) for handle in Path(f"/proc/{child.pid}/fd").iterdir()]
        if any("/logs/rank" in handle for handle in handles):
            found.append(child)
    assert len(found) == 2
    return found


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


HELPER = """
import os, signal, time
from launcher.launch import elastic_agent
from launcher.distributed.signals import SIGNALS
from multiprocessing import forkserver, resource_tracker
start, waiting = forkserver.ensure_running, set()
def ensure_running():
    waiting.update(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    start()
forkserver.ensure_running = ensure_running
elastic_agent.warm_up()
assert waiting == set(SIGNALS), "the server is born with all of them waiting"
helper = resource_tracker._resource_tracker._pid
for number in (signal.SIGUSR1, signal.SIGHUP):
    os.kill(helper, number)
time.sleep(0.2)
assert resource_tracker._resource_tracker._check_alive()
assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
"""


def test_a_server_that_cannot_start_leaves_the_launcher_online(monkeypatch):
    from launcher.config import env_vars

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    before = dict(os.environ)
    with pytest.raises(OSError, match="no more processes"), env_vars.temporarily(env_vars.OFFLINE):
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        raise OSError("no more processes")
    assert dict(os.environ) == before


def test_signals_that_slurm_sends_to_all_processes_leave_the_helper_of_multiprocessing_alive():
    done = subprocess.run([sys.executable, "-c", HELPER], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_that_stopped_before_its_first_step_goes_on(workspace, monkeypatch):
    """As a job does that is preempted at once."""
    recipe = support.write(support.small("x"))
    monkeypatch.setenv("LAUNCHER_DEADLINE", "1")
    stopped = support.launcher("run", recipe, "--ranks", 2, code=75)
    assert "stopped: step 0 is saved (start it again and it goes on)" in stopped.stderr
    monkeypatch.delenv("LAUNCHER_DEADLINE")
    support.launcher("run", recipe, "--ranks", 2)
    assert max(support.steps("runs/x")) == 6
