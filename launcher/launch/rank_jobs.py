"""Jobs of a rank besides training: evaluation of a checkpoint, and measurement of steps, also in other settings."""

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch

from launcher.build import build
from launcher.config import plugins
from launcher.config.errors import UserError
from launcher.distributed.heartbeat import Heartbeat, Stage
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.stop_requests import StopMonitor
from launcher.plan import attention_kernels, layout, model_requirements
from launcher.prepare import run_setup, tokenizer
from launcher.train import evaluation, loop, rank_errors
from launcher.train.memory_meter import Peak
from launcher.train.step_sync import sync_step_info

_log = logging.getLogger(__name__)


class Evaluation(TypedDict):
    """Metrics of a checkpoint, in the form of a line of metrics.jsonl, and the task's report."""

    metrics: dict[str, Any]
    report: object


class Measurement(TypedDict):
    """Records of the first steps. `memory`: maximum bytes that a rank needed. `stopped`: whether a stop was
    requested."""

    records: list[dict[str, Any]]
    memory: int
    stopped: bool


def evaluate(folder: Path, group: ProcessGroup, which: str | int, split: str = "validation") -> Evaluation:
    """Return the metrics of a checkpoint on the run's validation or test data, the same on every rank. `which`: latest,
    best, or a step. Raises UserError."""
    run = run_setup.load(folder)
    generates = run.recipe.inner_task.generates
    recipe = layout.runnable(run.recipe, group.world, whole=generates)
    run = dataclasses.replace(run, recipe=attention_kernels.runnable(recipe, group.device.type))
    with rank_errors.explained(run, group, heartbeat := Heartbeat()):
        built, notes = build(run, group, StopMonitor(), run.folder.saved(which), split=split, trains=False)
        for note in notes:
            _log.debug(note)
        heartbeat.beat(Stage.EVALUATING)
        if built.validation is None:
            where = f"{run.folder.recipe}: data.{split}"
            raise UserError(f"{where}: there is nothing to evaluate on (add it to the recipe)")
        task = built.task
        outputs = loop.outputs(built, evaluation.Generating(task, built.engine.unwrapped) if generates else task)
    metrics = task.metrics(outputs)
    if generates:
        metrics |= task.generation_metrics(outputs, tokenizer.load(str(run.folder.tokenizer), "tokenizer"))
    named = {f"eval/{name}": value for name, value in metrics.items()}
    return {"metrics": {"step": built.progress.step, **named}, "report": task.report(outputs)}


def measure(folder: Path, group: ProcessGroup, stop: StopMonitor, steps: int) -> Measurement:
    """Train some steps, and return their time and memory. Nothing is saved."""
    prepared = run_setup.load(folder)
    plugins.strategy(prepared.recipe.strategy).load(group.device.type)
    with torch.device("meta"):  # import the code first, since it is not memory of the model
        plugins.model(prepared.recipe.model).build(
            model_requirements.of(prepared.recipe, prepared.facts), weights=False
        )
    peak, records, stopped = Peak(group.device), list[dict[str, Any]](), False
    with rank_errors.explained(prepared, group, heartbeat := Heartbeat()):
        run, _ = build(prepared, group, stop, None, workers=0)
        run, begin = dataclasses.replace(run, heartbeat=heartbeat), time.perf_counter()
        for _, batch in zip(range(steps), run.batches, strict=False):
            info = sync_step_info(run.process, batch, time.perf_counter() - begin, stop=stop.requested())
            if stopped := bool(info.stop):
                break
            records.append(loop.step(run, batch, info, begin))
            begin = time.perf_counter()
    memory = int(group.all_gather(np.array(peak.bytes())).max())
    return {"records": records, "memory": memory, "stopped": stopped}


def tune(folder: Path, group: ProcessGroup, stop: StopMonitor) -> dict[str, bool]:
    """Measure the settings of a search, which its journal in the folder then has. Returns whether a stop was
    requested."""
    from launcher.tuning import rank_measurement

    return {"stopped": rank_measurement.measure_all(folder, group, stop)}
