"""A run of which rank 1 misbehaves at a later step, so that its other ranks wait for it."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import support

SECONDS = 3.0
"""`watchdog.seconds` of these runs."""

TASK = """
import ctypes, os, signal, time
import torch
import torch.distributed as dist
from launcher.tasks import tabular_regression as _base

class Config(_base.Config):
    kind: str = "own.hanging"

def hangs(fault):
    mine = os.environ.get("RANK") == os.environ.get("HANGING_RANK", "1")
    return os.environ["HANGS"] == fault and mine and not os.path.exists("hung")

class Task(_base.Task):
    calls = 0

    @staticmethod
    def preparation_key(config):
        return _base.Task.preparation_key(_base.Config())

    def collate(self, samples):
        if hangs("loads_slowly") and torch.utils.data.get_worker_info() is not None:
            Task.calls += 1
            if Task.calls == 6:
                open("hung", "w").close()
                time.sleep(600)  # loads_slowly
        return super().collate(samples)

    def loss(self, model, batch):
        if model.training and torch.is_grad_enabled():
            Task.calls += 1
            if Task.calls == 12:
                self.misbehave()
            elif os.environ["HANGS"] == "skips_a_collective":
                dist.barrier()  # skips_a_collective
            if hangs("is_a_straggler"):
                time.sleep(0.03)
            if os.environ["HANGS"] == "skips_another_size" and not (Task.calls == 12 and hangs("skips_another_size")):
                dist.all_reduce(torch.ones(1000))
        return super().loss(model, batch)

    def misbehave(self):
        if hangs("skips_a_collective"):
            return
        if os.environ["HANGS"] == "skips_a_collective":
            dist.barrier()  # skips_a_collective
        if hangs("is_stopped"):
            open("hung", "w").close()
            os.kill(os.getpid(), signal.SIGSTOP)  # is_stopped
        if hangs("calls_native_code"):
            open("hung", "w").close()
            mutex, library = ctypes.create_string_buffer(64), ctypes.PyDLL(None)  # which keeps the interpreter's lock
            library.pthread_mutex_lock(mutex)
            library.pthread_mutex_lock(mutex)  # calls_native_code
        if hangs("leaves_early"):
            os._exit(0)
        if os.environ["HANGS"] == "is_slow":
            time.sleep(float(os.environ["SLOW"]))
"""


class Story(NamedTuple):
    """What the launcher said of a hang. `seconds`: without progress."""

    sentence: str
    seconds: float
    stderr: str


def line(fault: str) -> str:
    """The lines of the task in which it hangs, as file:line; empty: in none."""
    numbers = [number for number, text in enumerate(TASK.splitlines(), start=1) if text.endswith(f"# {fault}")]
    return f"(hanging.py:{numbers[-1]})" if numbers else ""


def recipe(**changes: Any) -> str:
    """A recipe with the misbehaving task."""
    support.plugin("hanging", TASK)
    keys = {
        "train__steps": 40,
        "train__global_batch": 12,
        "task__kind": "own.hanging",
        "checkpoint__every": 5,
        "checkpoint__mode": "sync",
    }
    return support.write(support.small("x", **{**keys, **changes}))


def run(fault: str, monkeypatch: Any, *words: Any, ranks: int = 3, code: int = 1, **changes: Any) -> Story:
    """A run with a fault, and what was said of it."""
    monkeypatch.setenv("HANGS", fault)
    where = recipe(**changes)
    limit = f"cluster.watchdog.seconds={SECONDS}"
    done = support.launcher("run", where, "--ranks", ranks, limit, *words, code=code, timeout=150)
    said = [line for line in done.stderr.splitlines() if re.match(r"(note: )?ranks? \d+[ ,-]", line)]
    hangs = events("hang")
    return Story(said[0] if said else "", hangs[0]["seconds"] if hangs else 0.0, done.stderr)


def events(name: str) -> list[dict[str, Any]]:
    """The events of this name in the run's job log."""
    lines = map(json.loads, Path("runs/x/jobs.jsonl").read_text().splitlines())
    return [event for event in lines if event["event"] == name]
