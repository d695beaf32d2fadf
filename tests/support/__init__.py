"""What tests share: a small corpus, small recipes, and the command as a user types it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from support import warm_start

WORDS = (  # noqa: SIM905
    "the a rank step batch loss model token mask gradient node cluster sample seed order split epoch weight bias layer "
    "head field reads writes holds gives takes finds sends waits learns counts every first last small large same other"
).split()

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "dropout": 0.0}

FAULTY = '''
"""A regression that fails on one rank at its fifth step."""
import os
import torch
from launcher.tasks import tabular_regression

class Config(tabular_regression.Config):
    kind: str

class Task(tabular_regression.Task):
    calls = 0

    def loss(self, model, batch):
        Task.calls += model.training and torch.is_grad_enabled()
        if os.environ.get("RANK") == "1" and Task.calls > 4:
            raise ValueError("the third law of thermodynamics")
        return super().loss(model, batch)
'''
SLOW = '''
"""A sink that takes its time, so that a run can be met in the middle."""
import time
from launcher import sinks
from launcher.config.types import Plugin

class Config(Plugin):
    kind: str

class Sink(sinks.Sink):
    def __init__(self, config, about):
        pass

    def write(self, record):
        time.sleep(0.05)

    def close(self, finished):
        pass
'''


def corpus(folder: Path, documents: int = 120, seed: int = 0) -> Path:
    """corpus.txt (a document a line, of 3 to 40 words) and corpus.jsonl (the same with a label that depends on it)."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 40))) for _ in range(documents)]
    (folder / "corpus.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    rows = [json.dumps({"text": t, "label": ["few", "some", "many"][min(2, len(t.split()) // 14)]}) for t in texts]
    (folder / "corpus.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def mlm(name: str = "tiny", **changes: Any) -> dict[str, Any]:
    """A recipe of a BERT of some 10,000 parameters on corpus.txt. `changes`: dotted keys with __ for the dot."""
    recipe: dict[str, Any] = {
        "name": name,
        "seed": 3,
        "model": {"kind": "config", "type": "bert", **TINY},
        "tokenizer": {"kind": "train", "vocab_size": 120},
        "data": {
            "train": {"kind": "text", "path": "corpus.txt", "document": "line"},
            "validation": {"fraction": 0.15},
            "max_length": 32,
        },
        "task": {"kind": "mlm", "samples": "documents"},
        "train": {"global_batch": 12, "steps": 6, "max_tokens": 96},
        "optimizer": {"kind": "adamw", "lr": 1.0e-3},
        "sinks": ["jsonl"],
    }
    return changed(recipe, **changes)


def classification(name: str = "tiny-labels", **changes: Any) -> dict[str, Any]:
    recipe = mlm(name, task={"kind": "sequence_classification"})
    recipe["data"]["train"] = {"kind": "jsonl", "path": "corpus.jsonl"}
    return changed(recipe, **changes)


def small(name: str = "tiny", **changes: Any) -> dict[str, Any]:
    """A recipe for what is asked of starts, stops and machines, whatever is trained: it imports no transformers, which
    takes longer than all else."""
    recipe: dict[str, Any] = {
        "name": name,
        "seed": 3,
        "model": {"kind": "small", "type": "mlp", "hidden": [16]},
        "data": {"train": {"kind": "linear", "weights": [3.0, -2.0, 1.0], "rows": 120}},
        "task": {"kind": "tabular_regression"},
        "train": {"global_batch": 12, "steps": 6},
        "optimizer": {"kind": "adamw", "lr": 1.0e-3},
        "evaluate": {"metric": "mse"},
        "sinks": ["jsonl"],
    }
    return changed(recipe, **changes)


def changed(recipe: dict[str, Any], **changes: Any) -> dict[str, Any]:
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = recipe
        for parent in parents:
            inner = inner.setdefault(parent, {})
        if value is None:
            inner.pop(last, None)
        else:
            inner[last] = value
    return recipe


def write(recipe: dict[str, Any], file: str | Path = "recipe.yaml") -> str:
    with Path(file).open("w", encoding="utf-8") as out:
        YAML(typ="safe", pure=True).dump(recipe, out)
    return str(file)


def plugin(name: str, text: str) -> None:
    """A module of one's own, own.<name>."""
    Path("own").mkdir(exist_ok=True)
    Path("own", f"{name}.py").write_text(text)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "launcher", *map(str, arguments)]


def starts(recipe: str, ranks: int) -> dict[str, list[str]]:
    """The ways to start ranks on one machine, by name."""
    by_hand = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m", "launcher.worker"]
    return {
        "run": command("run", recipe, "--ranks", ranks),
        "torchrun": command("run", recipe, "--ranks", ranks, "--via", "torchrun"),
        "by hand": [sys.executable, *by_hand, recipe],
    }


def launcher(*arguments: object, code: int | None = 0, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """The command as a user types it; fails with its output where the exit code is another."""
    done = warm_start.run(arguments, timeout)
    if code is not None:
        assert done.returncode == code, f"exit {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
    return done


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command in the background, at the head of a process group of its own."""
    started: subprocess.Popen[str] = warm_start.start(arguments)
    return started


def kill_group(process: subprocess.Popen[str]) -> None:
    """Power off: every process of the group dies at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)


def records(run: str | Path) -> list[dict[str, Any]]:
    file = Path(run) / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def steps(run: str | Path) -> dict[int, dict[str, Any]]:
    """The training records by step: where a step stands twice, the later one."""
    return {r["step"]: r for r in records(run) if "loss" in r}


def evaluations(run: str | Path) -> dict[int, dict[str, Any]]:
    return {r["step"]: r for r in records(run) if "loss" not in r}


def wait_for_step(run: str | Path, step: int, process: subprocess.Popen[str], timeout: float = 120) -> None:
    """Until metrics.jsonl holds this step."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode} before step {step}:\n{process.communicate()[0]}")
        if max(steps(run), default=0) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step} within {timeout} s")


def same_run(one: str | Path, other: str | Path, relative: float) -> None:
    """Step by step the same samples and masks; losses that differ by no more than this share of them."""
    here, there = steps(one), steps(other)
    assert [r["data"] for r in there.values()] == [r["data"] for r in here.values()]
    assert [r["loss"] for r in there.values()] == pytest.approx([r["loss"] for r in here.values()], rel=relative)


def tensors(checkpoint: str | Path) -> dict[str, bytes]:
    """The bytes of each tensor of a checkpoint, parameters and moments, by the file and the name. The files themselves
    differ in the order of their headers."""
    from safetensors.numpy import load_file

    files = sorted(Path(checkpoint).glob("*.safetensors"))
    return {f"{file.name}/{name}": array.tobytes() for file in files for name, array in load_file(file).items()}


def needs(missing: str | None) -> None:
    """Skip a test where something is missing on this machine; in CI it fails, since nothing is left out there."""
    if missing and os.environ.get("CI"):
        pytest.fail(f"{missing}; in CI these tests are not left out")
    if missing:
        pytest.skip(missing)


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of its own on a folder, such as of size 1m. Gives a function that changes its size. Skips the test
    where file systems cannot be mounted."""
    folder.mkdir(exist_ok=True)

    def mount(options: str) -> None:
        words = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False) if shutil.which("mount") else None
        if done is None or done.returncode:
            pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip() if done else 'there is no mount'}")

    mount(size if "=" in size or size == "ro" else f"size={size}")
    try:
        yield lambda options: mount(f"remount,size={options}")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def wait_for(true: Callable[[], Any], timeout: float = 60) -> None:
    """Until it is."""
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, f"not within {timeout} s"
        time.sleep(0.05)


def tree(folder: str | Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(p): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}
