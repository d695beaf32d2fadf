"""Ranks that end without a word, or stand still: the right one is named, in seconds, with its own error."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import support

from launcher.storage import job_log
from launcher.storage.run_dir import RunDir

# Rank 1 misbehaves at its third loss in the training loop, as WHAT says.
MISBEHAVING = """
import os, sys, threading, time, traceback
from launcher.config.errors import Problem, UserError
from launcher.tasks import tabular_regression as _base

class Config(_base.Config):
    kind: str = "own.misbehaving"

class Task(_base.Task):
    calls = 0

    @staticmethod
    def preparation_key(config):
        return _base.Task.preparation_key(_base.Config())

    def loss(self, model, batch):
        Task.calls += any(frame.name == "accumulate" for frame in traceback.extract_stack())
        if os.environ.get("RANK") == "1" and Task.calls == 3:
            getattr(self, os.environ["WHAT"])()
        return super().loss(model, batch)

    def exits(self): sys.exit(0)
    def exits_with_words(self): sys.exit("no more")
    def leaves(self): os._exit(0)
    def raises(self): raise BaseException("the base of all")
    def raises_another(self): raise ValueError("once" if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" else "twice")
    def raises_three_times(self):
        time.sleep(1.2)
        with open("tries", "a+") as file:
            file.write("x")
            file.seek(0)
            if (tries := len(file.read())) < 4:
                raise ValueError("abc"[tries - 1])
    def raises_once(self): os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and self.raises()
    def fills_the_memory(self): __import__("torch").empty(1 << 60)
    def is_aborted(self):
        what = "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE) ran for 60000"
        os.write(2, (what + " milliseconds before timing out.\\n").encode())
        os.abort()
    def stands(self): time.sleep(600)
    def meets_a_mistake(self): raise UserError(Problem("task.own", "no number"))
    def raises_beside_a_thread(self):
        threading.Thread(target=time.sleep, args=(600,)).start()
        raise RuntimeError("with a thread")
"""
SAID = {
    "exits": "rank 1 failed at step {step}: RuntimeError: its code called exit(0); no checkpoint",
    "exits_with_words": "rank 1 failed at step {step}: RuntimeError: its code called exit('no more'); no checkpoint",
    "leaves": "rank 1 failed: it left with exit code 0 before the others had finished (does its code call exit?); no",
    "raises": "rank 1 failed at step {step}: BaseException: the base of all; no checkpoint",
    "fills_the_memory": "rank 1 failed at step {step}: OutOfMemory: cpu on ",
    "is_aborted": "rank 1 was aborted: NCCL's watchdog caught collective operation timeout: its ALLREDUCE waited 60 s",
    "raises_beside_a_thread": "rank 1 failed at step {step}: RuntimeError: with a thread; no checkpoint",
}


def misbehave(what, monkeypatch, *words):
    support.plugin("misbehaving", MISBEHAVING)
    recipe = support.write(support.small("x", train__steps=20, task__kind="own.misbehaving"))
    monkeypatch.setenv("WHAT", what)
    return support.launcher("run", recipe, "--ranks", 2, *words, code=1, timeout=100)


@pytest.mark.parametrize("what", list(SAID))
def test_a_rank_that_leaves_early_is_named_with_its_error(workspace, monkeypatch, what):
    """Each would be waited for until cluster.timeout, 30 minutes, if its end were not seen."""
    failed = misbehave(what, monkeypatch)
    first = next(line for line in failed.stderr.splitlines() if line.startswith("rank "))
    wanted = [SAID[what].format(step=step) for step in range(1, 5)]
    assert any(first.startswith(sentence) for sentence in wanted), first
    if what.startswith("raises"):
        assert "test_local_agent" not in first
        log = Path("runs/x/logs/rank1.log").read_text()
        assert "Traceback" in log
        assert SAID[what].split(": ")[2].split(";")[0] in log


@pytest.mark.parametrize("via", ["torchrun", "accelerate"])
def test_a_rank_under_another_starter_is_named_with_its_error(workspace, monkeypatch, via):
    failed = misbehave("raises_beside_a_thread", monkeypatch, "--via", via)
    told = [line for line in failed.stderr.splitlines() if line.startswith("rank 1")]
    assert len(told) == 1
    assert "RuntimeError: with a thread; no checkpoint" in told[0]
    assert "torch/distributed/elastic" not in failed.stderr
    assert "with a thread" in Path("runs/x/logs/rank1.log").read_text()


STARTS = {
    "run": [*support.command("run", "recipe.yaml", "--ranks", 2, "--max-restarts", 1)],
    "via torchrun": [*support.command("run", "recipe.yaml", "--ranks", 2, "--max-restarts", 1, "--via", "torchrun")],
    "by hand": support.starts("recipe.yaml", 2)["by hand"],
}


@pytest.mark.parametrize("start", STARTS)
def test_a_mistake_of_the_user_that_one_rank_meets_is_read_once_and_nothing_is_started_again(
    workspace, monkeypatch, start
):
    """Some 8 s each. What each start alone proves: that the mistake of a rank reaches the user past the failures of the
    ranks that lost it. torchrun itself exits with 1 for every failure."""
    support.plugin("misbehaving", MISBEHAVING)
    support.write(support.small("x", train__steps=20, task__kind="own.misbehaving"))
    monkeypatch.setenv("WHAT", "meets_a_mistake")
    failed = subprocess.run(STARTS[start], capture_output=True, text=True, timeout=100, check=False)
    assert failed.returncode == (1 if start == "by hand" else 2), failed.stderr
    said = [line for line in failed.stderr.splitlines() if "task.own: no number" in line]
    assert said == ["task.own: no number"], failed.stderr
    for words in ("starting the ranks again", "Connection closed", "rank 0"):
        assert start == "by hand" or words not in failed.stderr
    log = Path("runs/x/logs/rank1.log").read_text()
    assert log.count("task.own: no number") == 1


def test_the_stalled_rank_is_named_and_not_the_one_that_gave_up(workspace, monkeypatch):
    """What the heartbeats are for: the rank that fails is the one that waited."""
    support.plugin("misbehaving", MISBEHAVING)
    recipe = support.write(support.small("x", train__steps=20, task__kind="own.misbehaving"))
    monkeypatch.setenv("WHAT", "stands")
    words = ["run", recipe, "--ranks", "2", "cluster.timeout=0.3"]
    impatient = "from launcher.distributed import heartbeat\nheartbeat.SILENCE = 5\n"
    impatient += "from launcher.__main__ import main\nmain()\n"
    command = [sys.executable, "-c", impatient, *words]
    failed = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert failed.returncode == 1, failed.stderr
    lines = failed.stderr.splitlines()
    note = next(line for line in lines if line.startswith("note: no rank has moved on for "))
    assert note.endswith(" (in the forward pass); the others wait")
    assert ": rank 1 is at step " in note
    first = next(line for line in lines if line.startswith("rank "))
    assert first.startswith("rank 1 failed: it stood still at step ")
    assert "until the others gave up waiting (cluster.timeout)" in first


def test_each_failure_before_a_restart_is_reported_and_one_that_returns_ends_the_run(workspace, monkeypatch):
    failed = misbehave("raises_another", monkeypatch, "--max-restarts", 5)
    again = [line for line in failed.stderr.splitlines() if "; starting the ranks again (" in line]
    assert [line.rpartition("again ")[2] for line in again] == ["(1 of 5)", "(2 of 5)"]
    assert "ValueError: once" in again[0] and "ValueError: twice" in again[1]
    last = next(line for line in failed.stderr.splitlines() if line.startswith("rank 1 failed again at step "))
    assert " after a restart, with the same error: ValueError: twice; it will not pass by itself; no checkpoint" in last
    events = [event for event in job_log.read(RunDir(Path("runs/x"))) if event["event"] != "resumed"]
    assert [event["event"] for event in events] == ["started", "restarted", "restarted", "ended"]
    assert [(event["rank"], event["why"], event["attempt"]) for event in events[1:3]] == [
        (1, "failed", 1), (1, "failed", 2),
    ]  # fmt: skip
    assert events[1]["error"].endswith("ValueError: once") and events[1]["step"] in (2, 3)
    assert "it will not pass by itself" in events[3]["error"]


def test_restarts_count_from_zero_after_some_time_without_a_failure(workspace, monkeypatch):
    support.plugin("misbehaving", MISBEHAVING)
    recipe = support.write(support.small("x", train__steps=20, task__kind="own.misbehaving"))
    monkeypatch.setenv("WHAT", "raises_three_times")
    words = ["run", recipe, "--ranks", 2, "--max-restarts", 1, "cluster.restart_window=1s"]
    done = support.launcher(*words)
    again = [line.rpartition("again ")[2] for line in done.stderr.splitlines() if "; starting the ranks again" in line]
    assert again == ["(1 of 1)"] * 3
    refused = support.launcher(*words[:-1], "cluster.restart_window=soon", code=2)
    assert "restart_window: 'soon' is no duration (such as 90s, 10m, 2h, 1d)" in refused.stderr


def test_the_time_from_a_death_to_the_next_step_is_reported(workspace, monkeypatch):
    support.plugin("misbehaving", MISBEHAVING)
    recipe = support.write(support.small("x", train__steps=20, task__kind="own.misbehaving"))
    monkeypatch.setenv("WHAT", "raises_once")
    done = support.launcher("run", recipe, "--ranks", 2, "--max-restarts", 1)
    line = next(line for line in done.stderr.splitlines() if line.startswith("rank 1 died at "))
    found = re.fullmatch(r"rank 1 died at \d\d:\d\d:\d\d; step (\d+) after (\d+\.\d) s", line)
    events = job_log.read(RunDir(Path("runs/x")))
    assert [event["event"] for event in events] == ["started", "restarted", "resumed", "ended"]
    assert found and events[2]["step"] == int(found[1]) >= 1 and abs(events[2]["seconds"] - float(found[2])) <= 0.051
    assert max(support.steps("runs/x")) == 20


def test_a_fork_server_that_is_killed_while_it_starts_is_reported(workspace):
    """Out of memory while everything is imported: it has imported nothing yet, and no rank is there."""
    killed = (
        "import os, signal\n"
        "from multiprocessing import forkserver\n"
        "from launcher.launch import elastic_agent\n"
        "warm_up = elastic_agent.warm_up\n"
        "def warm_up_and_kill(*words):\n"
        "    warm_up(*words)\n"
        "    forkserver._forkserver.ensure_running = lambda: None\n"
        "    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)\n"
        "elastic_agent.warm_up = warm_up_and_kill\n"
        "from launcher.__main__ import main\nmain()\n"
    )
    recipe = support.write(support.small("x"))
    command = [sys.executable, "-c", killed, "run", recipe, "--ranks", "2"]
    failed = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=dict(os.environ))
    assert failed.returncode == 1, failed.stderr
    assert "rank 0 failed: the server that it was forked from is gone" in failed.stderr
    assert "Aborted" not in failed.stderr
