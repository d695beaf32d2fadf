"""Checks of results that do not depend on speed: precisions, strategies, resumes, two ranks, options of a step."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

from benchmarks.gpu import training
from benchmarks.gpu.harness import Figures, Machine, Mismatch, Unavailable

_TOLERANCES = {"fp64": 1e-8, "fp32": 1e-5, "bf16": 2.0**-6}
"""Maximum relative difference of a loss from that of another device or layout."""
_STRATEGIES = {
    "fsdp-full": "strategy={kind: fsdp, shard: full}",
    "fsdp-grad-op": "strategy={kind: fsdp, shard: grad_op}",
    "fsdp-offload": "strategy={kind: fsdp, offload: true}",
    "zero-0": "strategy={kind: deepspeed, zero: 0}",
    "zero-1": "strategy={kind: deepspeed, zero: 1}",
    "zero-2": "strategy={kind: deepspeed, zero: 2}",
    "zero-3": "strategy={kind: deepspeed, zero: 3}",
}


def devices(machine: Machine) -> Figures:
    """Compare 20 steps on the device with the same on the CPU, in each precision. In a rehearsal, the other side has
    other micro-batches."""
    other = ["train.max_tokens=384"] if machine.rehearses else []
    figures: Figures = {}
    for precision, tolerance in _TOLERANCES.items():
        keys = [f"train.precision={precision}"]
        _, here = training.train_here(machine, "mlm", *keys, f"name=device-{precision}")
        _, there = training.train_here(machine, "mlm", *keys, *other, f"name=cpu-{precision}", device="cpu")
        figures[precision] = training.compare(here, there, tolerance, precision)
    return figures


def strategies(machine: Machine) -> Figures:
    """Compare each strategy on one rank with plain training, and load its checkpoint under ddp, to the last bit.

    On an accelerator, one rank still communicates, by NCCL.
    """
    keys = ["train.steps=8", "checkpoint.every=4"]
    _, expected = training.train_here(machine, "mlm", *keys, "name=plain")
    figures: Figures = {}
    for name, strategy in _STRATEGIES.items():
        if "deepspeed" in strategy and find_spec("deepspeed") is None:
            figures[name] = "skipped: deepspeed is not installed"
            continue
        run, found = training.train_here(machine, "mlm", *keys, strategy, f"name={name}")
        figures[name] = training.compare(found, expected, _TOLERANCES["fp32"], name)
        trained = _tensors(run)
        resumed = training.build_here(training.set_up(machine, "mlm", *keys, f"name={name}"), resume=8)
        _compare_bitwise(_tensors(resumed), trained, f"{name}, loaded under ddp")
    return figures


def kill_and_resume(machine: Machine) -> Figures:
    """Kill a run between two checkpoints and start it again. With `train.deterministic` its last checkpoint is that of
    an undisturbed run, to the last bit."""
    keys = ["train.steps=60", "checkpoint.every=10", "train.deterministic=true", "train.precision=bf16"]
    training.run(machine, "mlm", *keys, "name=undisturbed")
    killed = _killed_at(machine, 15, *keys, "name=killed")
    training.run(machine, "mlm", *keys, "name=killed")
    here, there = (training.records(machine, name) for name in ("killed", "undisturbed"))
    training.compare(here, there, 0.0, "killed and resumed")
    tensors = [
        _tensors(training.build_here(training.set_up(machine, "mlm", *keys, f"name={name}"), resume=60))
        for name in ("killed", "undisturbed")
    ]
    _compare_bitwise(*tensors, "killed and resumed")
    return {"killed after step": killed}


def two_ranks(machine: Machine) -> Figures:
    """Compare two ranks that share the device, over gloo, with one rank: ddp and fsdp."""
    _, expected = training.train_here(machine, "mlm", "train.steps=8", "name=one-rank")
    figures: Figures = {}
    for name, strategy in {"ddp": "strategy=ddp", "fsdp": "strategy={kind: fsdp, shard: full}"}.items():
        keys = ["train.steps=8", strategy, f"name=two-ranks-{name}"]
        training.set_up(machine, "mlm", *keys)
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
        command += ["-m", "benchmarks.gpu.shared_device", str(machine.folder / "runs" / f"two-ranks-{name}")]
        command += [machine.kind]
        ended = subprocess.run(
            command, cwd=machine.folder, env=training.environment(), capture_output=True, text=True, check=False
        )
        if ended.returncode:
            raise Mismatch(f"{name}: {' '.join(ended.stderr.split())[-400:]}")
        found = json.loads(ended.stdout.strip().splitlines()[-1])
        figures[name] = training.compare(found, expected, _TOLERANCES["fp32"], name)
    return figures


def options(machine: Machine) -> Figures:
    """Compare fp16, torch.compile and activation checkpointing with plain training in bf16."""
    keys = ["train.steps=8", "train.precision=bf16"]
    _, expected = training.train_here(machine, "mlm", *keys, "name=plain-bf16")
    figures: Figures = {}
    for name, key in {
        "fp16": "train.precision=fp16",
        "checkpointing": "train.activation_checkpointing=layers",
        "compile": "train.compile=true",
    }.items():
        _, found = training.train_here(machine, "mlm", *keys, key, f"name=option-{name}")
        figures[name] = training.compare(found, expected, _TOLERANCES["bf16"], name)
    return figures


def _tensors(run: "training.Run") -> dict[str, object]:
    """Return the whole tensors of a run's state, on the CPU."""
    from torch.distributed.tensor import DTensor

    state = run.engine.state_dict()
    whole = {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}
    return {name: value.detach().cpu().clone() for name, value in whole.items()}


def _compare_bitwise(here: dict[str, object], there: dict[str, object], what: str) -> None:
    import torch

    if here.keys() != there.keys():
        raise Mismatch(f"{what}: other tensors: {sorted(here.keys() ^ there.keys())[:3]}")
    other = [name for name in here if not torch.equal(here[name], there[name])]
    if other:
        raise Mismatch(f"{what}: {len(other)} of {len(here)} tensors differ, such as {other[0]}")


def _killed_at(machine: Machine, step: int, *overrides: str) -> int:
    """Start a run and kill all of its processes once it has logged `step`. Returns the last step that it logged."""
    command = [sys.executable, "-m", "launcher", "run", str(training.recipe(machine, "mlm")), "--ranks", "1"]
    command += [f"cluster.device={machine.kind}", *overrides]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=machine.folder, env=training.environment(), start_new_session=True, **quiet)
    metrics = machine.folder / "runs" / "killed" / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or len(metrics.read_bytes().splitlines()) < step):
        time.sleep(0.02)
    if process.poll() is not None:
        raise Unavailable("the run ended before it could be killed")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return len(metrics.read_bytes().splitlines())
