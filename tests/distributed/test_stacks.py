"""Stacks of other processes: whoever holds the interpreter's lock, stopped ones, and what they show."""

import os
import signal
import subprocess
import sys
from functools import partial

import psutil
import pytest
import support
from support.ranks import on_ranks

from launcher.distributed import stacks
from launcher.distributed.stacks import Frame, Stack

CHILD = """
import ctypes, os, signal, sys, threading
from pathlib import Path
from launcher.distributed import stacks

def stands():
    mutex, library = ctypes.create_string_buffer(64), ctypes.PyDLL(None)
    library.pthread_mutex_lock(mutex)
    print(flush=True)
    library.pthread_mutex_lock(mutex)  # line 10

stacks.register(Path(sys.argv[1]), 3)
threading.Thread(target=threading.Event().wait, daemon=True).start()
stands()
"""


@pytest.fixture
def child(tmp_path):
    """A process that waits for a lock in native code, with the interpreter's lock."""
    command = [sys.executable, "-c", CHILD, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        support.wait_for(lambda: psutil.Process(process.pid).status() == "sleeping")
        yield process
        process.kill()


def test_a_process_in_native_code_shows_the_line_that_called_it(child, tmp_path):
    stack = stacks.request(child.pid, stacks.path(tmp_path, 3))
    assert [(frame.function, frame.line) for frame in stack.frames][:2] == [("stands", 10), ("<module>", 14)]
    assert stack.text.count("most recent call first") == 2
    again = stacks.request(child.pid, stacks.path(tmp_path, 3))
    assert again.frames == stack.frames


def test_a_stopped_process_answers_only_if_it_is_continued_and_is_stopped_again(child, tmp_path, monkeypatch):
    monkeypatch.setattr(stacks, "_ANSWER_SECONDS", 0.3)
    os.kill(child.pid, signal.SIGSTOP)
    support.wait_for(lambda: psutil.Process(child.pid).status() == "stopped")
    assert stacks.request(child.pid, stacks.path(tmp_path, 3)) is None
    monkeypatch.setattr(stacks, "_ANSWER_SECONDS", 20)
    assert stacks.request(child.pid, stacks.path(tmp_path, 3), revive=True).frames[0].line == 10
    support.wait_for(lambda: psutil.Process(child.pid).status() == "stopped")


def test_a_process_that_has_ended_does_not_answer(child, tmp_path):
    child.kill()
    child.wait()
    assert stacks.request(child.pid, stacks.path(tmp_path, 3)) is None


def compiling(process, folder):
    """Whether the stacks say that this rank compiles: in the first compilation, in a call, in the second one."""
    import torch

    stacks.register(folder, 0)
    answers, ask = [], partial(stacks.request, os.getpid(), stacks.path(folder, 0))

    def backend(graph, inputs):
        answers.append(ask().compiles)
        return graph.forward

    @torch._dynamo.disable
    def between(x):
        answers.append(ask().compiles)
        return x

    torch.compile(lambda x: between(x * 2) + 1, backend=backend)(torch.ones(2))
    return answers


def test_a_rank_compiles_in_a_compilation_and_not_in_compiled_code(tmp_path):
    assert on_ranks(1, compiling, tmp_path) == [[True, False, True]]


C10D = "/v/site-packages/torch/distributed/distributed_c10d.py"
OWN = Frame("/home/me/model.py", 5, "loss")


@pytest.mark.parametrize(
    ("frames", "collective"),
    [
        ([Frame(C10D, 9, "all_reduce"), OWN], "all-reduce"),
        ([Frame(C10D, 9, "all_gather"), Frame(C10D, 5, "all_gather_object"), OWN], "all-gather-object"),
        ([Frame(C10D, 9, "_wait"), OWN], "collective"),
        ([OWN, Frame(C10D, 9, "all_reduce"), OWN], ""),
        ([Frame("/v/site-packages/torch/distributed/fsdp/_fully_shard.py", 9, "wait"), OWN], "collective"),
        ([Frame("/v/site-packages/torch/nn/functional.py", 9, "linear"), OWN], ""),
    ],
)
def test_the_collective_is_the_one_that_own_code_has_called(frames, collective):
    assert Stack(tuple(frames), "").collective == collective


def test_files_without_stacks_are_removed(tmp_path):
    (tmp_path / "stacks-rank1.txt").write_text("Thread")
    (tmp_path / "stacks-rank2.txt").touch()
    for rank in (1, 2, 3):
        stacks.remove_empty(tmp_path, rank)
    assert [file.name for file in tmp_path.iterdir()] == ["stacks-rank1.txt"]
