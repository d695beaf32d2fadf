"""Recipes, and short runs of them: by the launcher's commands, or in this process."""

import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gpu.harness import REPOSITORY, Machine, Mismatch

if TYPE_CHECKING:
    from launcher.prepare.run_setup import PreparedRun
    from launcher.train.training_run import Run

Record = dict[str, float]

_PACKAGES = "[stdlib, numpy, torch, transformers, sklearn]"
_MLM = """
name: mlm
seed: 17
model: {kind: config, type: bert, hidden_size: 128, num_hidden_layers: 3, num_attention_heads: 4,
        intermediate_size: 512, max_position_embeddings: 128}
tokenizer: {kind: train, vocab_size: 4096}
data: {train: {kind: python_docs}, max_length: 128}
task: {kind: mlm}
train: {global_batch: 32, steps: 20, max_tokens: 1024}
optimizer: {kind: adamw, lr: 5.0e-4, weight_decay: 0.01, clip: 1.0}
sinks: [jsonl]
"""
_CLASSIFICATION = """
name: classification
seed: 17
model: {kind: config, type: bert, hidden_size: 128, num_hidden_layers: 3, num_attention_heads: 4,
        intermediate_size: 512, max_position_embeddings: 128}
tokenizer: {kind: train, vocab_size: 4096}
data:
  train: {kind: python_docs, packages: [asyncio, email, http, importlib, logging, multiprocessing, unittest, xml]}
  validation: {fraction: 0.2}
  max_length: 128
task: {kind: sequence_classification}
train: {global_batch: 32, steps: 20, max_tokens: 1024}
optimizer: {kind: adamw, lr: 5.0e-4, weight_decay: 0.01, clip: 1.0}
sinks: [jsonl]
"""
# Without attention dropout, with which no fused kernel of attention would run. A global batch is one micro-batch of the
# Trainer too, because its loss and gradient of BERT grow with gradient accumulation.
_PRETRAIN = """
name: pretrain
seed: 17
model: {{kind: config, type: {type}, max_position_embeddings: 512, attention_dropout: 0.0}}
tokenizer: {{kind: train, vocab_size: 30528}}
data: {{train: {{kind: python_docs, packages: {packages}}}, max_length: 512}}
task: {{kind: mlm}}
train: {{global_batch: 64, steps: 30, precision: bf16, max_tokens: 32768}}
optimizer: {{kind: adamw, lr: 1.0e-4, weight_decay: 0.01, clip: 1.0}}
schedule: constant
sinks: [jsonl]
"""
_FINE_TUNE = """
name: fine-tune
seed: 17
model: {{kind: config, type: bert, max_position_embeddings: 512, attention_dropout: 0.0}}
tokenizer: {{kind: train, vocab_size: 30528}}
data: {{train: {{kind: python_docs, packages: {packages}}}, max_length: 512}}
task: {{kind: sequence_classification}}
train: {{global_batch: 64, steps: 40, precision: bf16, max_tokens: 32768}}
optimizer: {{kind: adamw, lr: 5.0e-5, weight_decay: 0.01, clip: 1.0}}
schedule: constant
sinks: [jsonl]
"""
_RECIPES = {
    "mlm": _MLM,
    "classification": _CLASSIFICATION,
    "bert-base": _PRETRAIN.format(type="bert", packages=_PACKAGES),
    "modernbert-base": _PRETRAIN.format(type="modernbert", packages=_PACKAGES),
    "fine-tune": _FINE_TUNE.format(packages=_PACKAGES),
}
SMALL = (
    "model.hidden_size=128", "model.num_hidden_layers=3", "model.num_attention_heads=4", "model.intermediate_size=512",
    "train.global_batch=8", "train.steps=8", "train.max_tokens=4096",
)  # fmt: skip
"""Overrides that make a large recipe small enough for a rehearsal."""


def recipe(machine: Machine, name: str) -> Path:
    """Write a recipe into the machine's folder, and return its file."""
    file = machine.folder / f"{name}.yaml"
    file.write_text(_RECIPES[name], encoding="utf-8")
    return file


def launcher(machine: Machine, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command of the launcher in the machine's folder. Raises Mismatch if its exit code is not `code`."""
    command = [sys.executable, "-m", "launcher", *arguments]
    ended = subprocess.run(command, cwd=machine.folder, env=environment(), capture_output=True, text=True, check=False)
    if ended.returncode != code:
        last = " ".join(ended.stderr.split())[-400:]
        raise Mismatch(f"launcher {' '.join(arguments)}: exit code {ended.returncode}, not {code}: {last}")
    return ended


def run(machine: Machine, name: str, *overrides: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a recipe on one rank by `launcher run`."""
    device = f"cluster.device={machine.kind}"
    return launcher(machine, "run", str(recipe(machine, name)), "--ranks", "1", device, *overrides, code=code)


def environment() -> dict[str, str]:
    """Return the environment of a command, with this repository first on the import path."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path}


def records(machine: Machine, run_name: str) -> list[Record]:
    """Return the training records of a run folder, by step: of a repeated step the last one."""
    lines = (machine.folder / "runs" / run_name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    training = [record for record in map(json.loads, lines) if "loss" in record]
    return list({record["step"]: record for record in training}.values())


def train_here(
    machine: Machine, name: str, *overrides: str, device: str | None = None, resume: int | None = None
) -> "tuple[Run, list[Record]]":
    """Train a recipe in this process, alone. Returns the run at its end, and its records. `device`: another one than
    the machine's. `resume`: step of a checkpoint of this run to continue from, under a strategy of `overrides`."""
    built = build_here(set_up(machine, name, *overrides, device=device), resume)
    return train_built(built)


def train_built(built: "Run") -> "tuple[Run, list[Record]]":
    """Train a run that `build_here` returned. Returns it with its records."""
    from launcher.train import loop

    recorder = Recorder()
    built = dataclasses.replace(built, sinks=[recorder])
    loop.train(built)
    return built, recorder.records


class Recorder:
    """A sink that keeps the training records in memory."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, record: Record) -> None:
        if "loss" in record:
            self.records.append(record)

    def close(self, finished: bool) -> None:
        """Do nothing."""


def set_up(machine: Machine, name: str, *overrides: str, device: str | None = None) -> "PreparedRun":
    """Plan and prepare a recipe, and write its run folder."""
    from launcher.config import load
    from launcher.prepare import run_setup

    os.chdir(machine.folder)
    cluster = load.cluster("local", [f"device={device or machine.kind}"]).value
    prepared = run_setup.create(run_setup.validate(load.recipe(recipe(machine, name), overrides), cluster, 1))
    prepared.release()
    return prepared


def build_here(prepared: "PreparedRun", resume: int | None = None) -> "Run":
    """Build a prepared run in this process, from a checkpoint if `resume` is its step."""
    from launcher.build import build
    from launcher.distributed import process_group
    from launcher.distributed.stop_requests import StopMonitor

    group = process_group.connect(process_group.RankInfo(), prepared.plan.device)
    saved = None if resume is None else prepared.folder.saved(resume)
    return build(prepared, group, StopMonitor(), saved, workers=0)[0]


def compare(here: Sequence[Record], there: Sequence[Record], tolerance: float, what: str) -> float:
    """Return the largest relative difference of the losses. Raises Mismatch if it is above the tolerance, or if the
    digests differ."""
    if [record["data"] for record in here] != [record["data"] for record in there]:
        raise Mismatch(f"{what}: the digests of the data differ")
    difference = max(abs(a["loss"] - b["loss"]) / abs(b["loss"]) for a, b in zip(here, there, strict=True))
    if not difference <= tolerance:
        raise Mismatch(f"{what}: losses differ by {difference:.1e}, allowed {tolerance:.1e}", {what: difference})
    return difference


def tokens_per_second(run_records: Sequence[Record], warm_up: int = 5) -> float:
    """Return the rate after the first steps."""
    first, last = run_records[warm_up - 1], run_records[-1]
    return (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"])


def step_seconds(run_records: Sequence[Record]) -> list[float]:
    """Return the seconds of each step after the first."""
    times = [record["seconds"] for record in run_records]
    return [after - before for before, after in itertools.pairwise(times)]


def median(values: Sequence[float]) -> float:
    """Return the median, rounded for a table."""
    return round(statistics.median(values), 6)
