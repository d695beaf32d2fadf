"""Ranks that make no progress: the right one is named with its line within twice the limit, and no healthy one is."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import support
from support import hangs

FAULTS = {
    "loads_slowly": r"rank 1 has been in data of step \d+ {line} for \d+ s; ranks 0, 2 wait in the all-gather of step",
    "skips_a_collective": r"rank 1 has left out a collective, and .*; ranks 0, 2 wait in the barrier of step 12 {line}",
    "leaves_early": r"rank 1 failed: it left with exit code 0 before the others had finished",
    "is_stopped": r"rank 1 is stopped \(by SIGSTOP or a debugger\), in forward of step 12 {line}, for",
    "calls_native_code": r"rank 1 has been in forward of step 12 {line} for",
}


def check(fault, monkeypatch):
    """Run a fault, and check what is said of it."""
    workers = {"train__workers": 2} if fault == "loads_slowly" else {}
    story = hangs.run(fault, monkeypatch, **workers)
    wanted = FAULTS[fault].replace("{line}", re.escape(hangs.line(fault)))
    assert re.match(wanted, story.sentence), f"{story.sentence}\n{story.stderr}"
    assert "it goes on from step" in story.sentence
    if fault != "leaves_early":
        assert hangs.SECONDS <= story.seconds <= 2 * hangs.SECONDS
        stacks = [Path(f"runs/x/logs/stacks-rank{rank}.txt").read_text() for rank in range(3)]
        assert all("most recent call first" in text for text in stacks)
    return story


@pytest.mark.parametrize("fault", FAULTS)
def test_the_rank_that_hangs_is_named_with_its_line(workspace, monkeypatch, fault):
    """Some 8 s each: what each alone proves is how the rank is found. A loader's stack is of another process; a rank
    that leaves out a collective waits like the others; native code that holds the interpreter's lock runs no Python."""
    check(fault, monkeypatch)


def test_a_run_that_hung_is_started_again_and_finishes(workspace, monkeypatch):
    """8 s: a stopped rank ends at once, and the run goes on from its last checkpoint."""
    story = hangs.run("is_stopped", monkeypatch, "--max-restarts", 1, code=0)
    assert story.sentence.startswith("rank 1 is stopped")
    assert story.sentence.endswith("; starting the ranks again (1 of 1)")
    assert max(support.steps("runs/x")) == 40
    assert [(hang["rank"], hang["stage"], hang["action"]) for hang in hangs.events("hang")] == [
        (1, "forward", "restart")
    ]
    assert list(Path("runs/x/logs").glob("stacks-rank*"))


def test_a_hang_may_only_be_reported(workspace, monkeypatch):
    """6 s: the ranks stay, so that a debugger can be attached."""
    monkeypatch.setenv("HANGS", "calls_native_code")
    words = [f"cluster.watchdog.seconds={hangs.SECONDS}", "cluster.watchdog.action=report"]
    process = support.start("run", hangs.recipe(), "--ranks", 2, *words)
    support.wait_for(lambda: Path("runs/x/jobs.jsonl").is_file() and hangs.events("hang"), 150)
    time.sleep(1)
    assert process.poll() is None
    assert [hang["action"] for hang in hangs.events("hang")] == ["report"]
    support.kill_group(process)


def test_a_run_that_is_stopped_and_continued_does_not_hang(workspace, monkeypatch):
    """15 s: all of its processes stop for three times the limit, as a batch system suspends a job."""
    monkeypatch.setenv("HANGS", "is_slow")
    monkeypatch.setenv("SLOW", "1")
    hangs.recipe(train__steps=14)
    process = support.start("run", "recipe.yaml", "--ranks", 2, f"cluster.watchdog.seconds={hangs.SECONDS}")
    support.wait_for_step("runs/x", 11, process)
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(3 * hangs.SECONDS)
    os.killpg(process.pid, signal.SIGCONT)
    assert process.wait(100) == 0
    process.communicate()
    assert hangs.events("hang") == []
    assert not list(Path("runs/x/logs").glob("stacks-rank*"))


def test_a_slow_rank_is_named_with_host_and_device(workspace, monkeypatch):
    """6 s: the seconds of each rank travel in the exchange of each step."""
    hangs.run("is_a_straggler", monkeypatch, code=0, train__steps=60)
    named = re.findall(r"note: (rank .* over 50 steps)", Path("runs/x/logs/rank0.log").read_text())
    assert len(named) == 1
    assert re.match(rf"rank 1 on {re.escape(socket.gethostname())} \(cpu\) takes [\d.]+ times the median", named[0])


@pytest.mark.soak
@pytest.mark.parametrize("round", range(5))
def test_every_hang_is_named_five_times(workspace, monkeypatch, capsys, round):
    """Prints a table: fault, sentence, seconds without progress."""
    for fault in FAULTS:
        for left in ("runs", "hung"):
            shutil.rmtree(left, ignore_errors=True)
            Path(left).unlink(missing_ok=True)
        story = check(fault, monkeypatch)
        with capsys.disabled():
            print(f"\n{fault:20} {story.seconds:4.1f} s  {story.sentence.partition('; start it')[0]}")


def test_ranks_in_collectives_of_different_sizes_are_named_when_gloo_aborts(workspace, monkeypatch):
    """4 s: gloo does not wait, but aborts the rank that receives too much, whichever left something out."""
    story = hangs.run("skips_another_size", monkeypatch)
    assert re.match(
        r"rank \d was aborted: gloo received data of another size than expected: ranks have called", story.sentence
    )
    assert ": rank 1 at step 12 (in the backward pass), ranks 0, 2 at step 12 (in the forward pass)" in story.sentence


def test_a_hang_under_torchrun_as_a_child_of_the_launcher_is_reported(workspace, monkeypatch):
    """10 s: torchrun starts and ends the ranks, and knows of no hang."""
    story = hangs.run("calls_native_code", monkeypatch, "--via", "torchrun")
    assert re.match(
        f"rank 1 has been in forward of step 12 {re.escape(hangs.line('calls_native_code'))}", story.sentence
    )
    assert "; start it again and it goes on from step 10" in story.stderr


@pytest.mark.parametrize("fault", [pytest.param("loads_slowly", marks=pytest.mark.soak), "calls_native_code"])
def test_torchrun_ends_ranks_that_hang(workspace, monkeypatch, fault):
    """15 s: no agent of the launcher is there. In native code that holds the interpreter's lock, not even a thread
    of the rank runs, so that another rank has to name it."""
    monkeypatch.setenv("HANGS", fault)
    monkeypatch.setenv("LAUNCHER_WATCHDOG_SECONDS", str(hangs.SECONDS))
    command = support.starts(hangs.recipe(train__workers=2), 2)["by hand"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 1, done.stderr
    stage = "forward of step 12" if fault == "calls_native_code" else "data of step"
    said = re.search(rf"rank 1 has been in {stage} .*", done.stderr)
    assert said and hangs.line(fault) in said[0], done.stderr
    assert "; rank 0 waits in the " in said[0]
    assert "(the stacks of all ranks: " in said[0]
    assert [hang["rank"] for hang in hangs.events("hang")] == [1]


@pytest.mark.soak
def test_a_run_that_compiles_for_longer_than_the_limit_does_not_hang(workspace):
    """The limit of a first forward is 10 s here."""
    compiled = {
        "train__compile": True,
        "train__precision": "fp32",
        "model": {"kind": "config", "type": "bert", **support.TINY},
    }
    support.corpus(Path())
    recipe = support.write(support.mlm("x", **compiled))
    support.launcher("run", recipe, "--ranks", 2, "cluster.watchdog.seconds=1", timeout=600)
    assert hangs.events("hang") == []
