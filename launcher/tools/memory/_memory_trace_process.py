"""A child process that builds and steps one rank of many on fake tensors, and reports its memory as JSON.

The question is on standard input, and the answer on standard output. Output of libraries goes to standard error. There
are no other ranks, no GPU and no data: torch's fake process group completes every collective at once.
"""

import dataclasses
import json
import math
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from launcher import build
from launcher.config import plugins
from launcher.config.errors import first_line
from launcher.config.recipe import Recipe
from launcher.config.types import JsonObject
from launcher.contract.random import Stream
from launcher.distributed.heartbeat import Heartbeat, Stage
from launcher.distributed.signals import StopReason
from launcher.distributed.stop_requests import StopMonitor
from launcher.plan import facts as data_facts
from launcher.plan import model_requirements
from launcher.plan.facts import Facts
from launcher.prepare.prepared_samples import PreparedSamples
from launcher.storage.run_dir import RunDir
from launcher.strategies._torch_engine import TorchEngine, local
from launcher.tasks import Task
from launcher.tools.memory import _fake_ranks
from launcher.tools.memory._allocations import Allocations
from launcher.tools.memory._cuda_autocast import CudaAutocast
from launcher.tools.memory._fake_ranks import FakeGroup
from launcher.train import loop
from launcher.train.batch_loader import BatchLoader
from launcher.train.checkpoint_saver import CheckpointSaver
from launcher.train.data_loader import Ids, ProbeBatches, RankBatches
from launcher.train.precision import STORED, LossScale
from launcher.train.rank_batch import RankBatch
from launcher.train.step_sync import StepInfo
from launcher.train.training_run import Progress, Run

T = TypeVar("T")
_SEARCHED = 1_000_000
"""Number of samples among which the longest are searched."""
_MICRO_BATCHES, _STEPS = 2, 2
"""Gradients are added up from the second micro-batch on, and the optimiser's state exists from the second step on."""
_QUANTUM = {"cuda": 512}
"""Bytes to which a device's allocator rounds up."""


class _Stages(Heartbeat):
    """Beats that name the stage of the recorded allocations, and the gradients when they are complete.

    `created`: number of storages before the last update of the parameters.
    """

    def __init__(self, allocations: Allocations, model: torch.nn.Module):
        self._allocations, self._model, self.created = allocations, model, 0

    def beat(self, stage: Stage, step: int = 0, left: int = 0) -> None:
        names = {Stage.FORWARD: "forward", Stage.BACKWARD: "backward", Stage.UPDATING: "update"}
        self._allocations.enter(f"{names.get(stage, 'end of gradient')} of step {step}")
        if stage is Stage.UPDATING:
            gradients = [local(p.grad) for p in self._model.parameters() if p.grad is not None]
            self._allocations.name("gradients", gradients, anew=True)
            self._allocations.name_kept("gradients", instead_of=("temporaries",))
            self.created = self._allocations.count


@dataclasses.dataclass(frozen=True)
class _LongestFirst:
    """An order in which every step has the longest samples. `ids`: of these."""

    ids: Ids

    def step(self, step: int, global_batch: int) -> tuple[Ids, Ids]:
        return np.zeros(global_batch, dtype=np.int64), np.resize(self.ids, global_batch)


def main() -> None:
    question, stdout = json.loads(sys.stdin.read()), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    with open(stdout, "w", encoding="utf-8") as out:  # noqa: PTH123
        try:
            answer = trace(question)
        except Exception as error:  # a model or a strategy may need values, which fake tensors do not have
            answer = {"problem": f"the rank cannot run on fake tensors: {first_line(error)[:200]}"}
        json.dump(answer, out)


def trace(question: JsonObject) -> JsonObject:
    """Return the fields of launcher.plan.memory.MemoryTrace for rank 0.

    `question`: `recipe`, `prepared` (folder of the data), `ranks`, `device`, whose rules of autocast apply, and
    `on_host`, the purposes that do not count because they are in host memory.
    """
    begin = time.monotonic()
    recipe = Recipe.model_validate(question["recipe"])
    prepared, device = Path(question["prepared"]), question["device"]
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    allocations = Allocations(fake, _QUANTUM.get(device, 1))
    with _fake_ranks.connected(question["ranks"], recipe.tensor_parallel) as group:
        rank = _Rank(recipe, data_facts.read(prepared), group, allocations)
        with CudaAutocast() if device == "cuda" else nullcontext():
            shape = rank.run(prepared)
    on_host = frozenset(question["on_host"])
    stage, found = allocations.peak(lambda stage: stage != "start", on_host)
    start = allocations.peak(lambda stage: stage == "start", on_host)[1]
    update = allocations.peak(lambda stage: stage == f"update of step {_STEPS}", on_host)[1]
    order = ("weights", "gradients", "optimizer", "activations", "temporaries", "buffers", "autocast copies")
    return {
        "purposes": {purpose: found[purpose] for purpose in order if purpose in found},
        "stage": stage,
        "update": update,
        "start": sum(start.values()),
        "rows": shape[0],
        "tokens": shape[1],
        "seconds": time.monotonic() - begin,
    }


class _Rank:
    """One rank of a run on fake tensors."""

    def __init__(self, recipe: Recipe, facts: Facts, group: FakeGroup, allocations: Allocations):
        self._recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"compile": False})})
        self._facts, self._group, self._allocations = facts, group, allocations
        self._task: Task = plugins.task(recipe.task)(recipe.task, facts)

    def run(self, prepared: Path) -> tuple[int, int]:
        """Build the rank and take steps. Returns the rows of a micro-batch and the tokens of a row."""
        samples, recipe = PreparedSamples(prepared, "train"), self._recipe
        lengths = samples.lengths(range(min(len(samples), _SEARCHED)))
        longest = np.flatnonzero(lengths == lengths.max())[: recipe.train.global_batch]
        batches = RankBatches(
            samples, _LongestFirst(longest), self._task, recipe.train.global_batch, recipe.seed, Stream.MASK,
            self._group.data_parallel_rank, self._group.data_parallel_size, recipe.train.max_tokens,
            recipe.data.max_length if recipe.packed else None,
        )  # fmt: skip
        probes, batch = batches.probe_batches(), batches[0]
        with self._allocations.recording():
            run = self._build(_fake(probes, self._allocations.fake), batches)
            stages = _Stages(self._allocations, run.engine.module)
            run = dataclasses.replace(run, heartbeat=stages)
            for _ in range(_STEPS):
                self._step(run, stages, _fake(_first_micro_batches(batch), self._allocations.fake))
        return len(batch.rows[0].keys), int(lengths.max())

    def _build(self, probes: ProbeBatches, batches: RankBatches) -> Run:
        """Build the rank's run as `launcher.build` does."""
        recipe, facts = self._recipe, self._facts
        model, _ = plugins.model(recipe.model).build(model_requirements.of(recipe, facts), False)
        model = model.to(dtype=STORED[recipe.train.precision]).train()
        self._task.prepare_model(model, probes.one.batch)
        engine, randomness, _ = build.build_engine(recipe, facts, self._group, self._task, model, probes)
        self._allocations.name_kept("buffers" if isinstance(engine, TorchEngine) else "optimizer")
        self._allocations.name("weights", (*engine.module.parameters(), *engine.module.buffers()), anew=True)
        stop, folder = StopMonitor(), RunDir(Path(os.devnull))
        return Run(
            recipe=recipe, folder=folder, process=self._group, task=self._task, engine=engine,
            randomness=randomness, batches=BatchLoader(batches, 0, 0, 0, False), validation=None,
            schedule=plugins.schedule(recipe.schedule, _STEPS),
            steps=_STEPS, until=_STEPS, data="", progress=Progress(scale=LossScale.of(recipe.train.precision)),
            sinks=[], stop=stop,
            saver=CheckpointSaver(folder, recipe.checkpoint, self._group, self._group, stop, math.inf),
        )  # fmt: skip

    def _step(self, run: Run, stages: _Stages, batch: RankBatch) -> None:
        """Take a step. What the first update creates and keeps is the optimiser's state."""
        info = StepInfo(1.0, 0, batch.tokens, batch.padded, batch.squares, 0.0, StopReason.NONE, False)
        loop.step(run, batch, info, time.perf_counter())
        self._allocations.name_kept("optimizer", since=stages.created)


def _first_micro_batches(batch: RankBatch) -> RankBatch:
    """Return a batch with its first micro-batches."""
    return dataclasses.replace(
        batch, micro_batches=batch.micro_batches[:_MICRO_BATCHES], rows=batch.rows[:_MICRO_BATCHES]
    )


def _fake(value: T, fake: FakeTensorMode) -> T:
    """Return a copy of a value in which all tensors are fake."""
    if isinstance(value, torch.Tensor):
        return cast(T, fake.from_tensor(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: _fake(getattr(value, field.name), fake) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    if isinstance(value, dict):
        return cast(T, {name: _fake(one, fake) for name, one in value.items()})
    return cast(T, [_fake(one, fake) for one in value]) if isinstance(value, list) else value


if __name__ == "__main__":
    main()
