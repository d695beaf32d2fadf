"""Replay of a step on one CPU process, from the nearest checkpoint before it. The run folder is only read."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from launcher import build
from launcher.config import kinds, load, strict_json
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.config.strict_json import DamagedFile
from launcher.distributed import process_group
from launcher.distributed.heartbeat import Heartbeat
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.stop_requests import StopMonitor
from launcher.plan import attention_kernels
from launcher.plan.plan import Plan
from launcher.prepare import hub
from launcher.prepare.run_setup import PreparedRun
from launcher.sinks import Record
from launcher.storage import roll_backs
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir
from launcher.tools.seen.run_data import RunData
from launcher.train import loop, rank_errors
from launcher.train.step_sync import sync_step_info
from launcher.train.training_run import Run


@dataclass(frozen=True)
class Replay:
    """A replayed step. `start`: the step of the checkpoint; 0: the replay began with the first step."""

    start: int
    loss: float
    grad_norm: float
    data: str


def replay(data: RunData, step: int, progress: Callable[[int, int], None]) -> Replay:
    """Train again up to a step, and return its record. `progress`: gets the steps done since its last call, and the
    steps so far. Raises UserError."""
    if not data.same:
        raise UserError(f"{data.folder.path}: --replay: {data.changed}")
    made = strict_json.read(data.folder.plan, Plan, "launcher run writes it again")
    recipe = _on_one_process(data.recipe)
    hub.fetch(recipe)
    group = process_group.connect(process_group.RankInfo(), "cpu")
    if made.ranks == 1 and made.threads:
        torch.set_num_threads(made.threads)  # rounding depends on it
    resume = _checkpoint_before(data.folder, step)
    start = resume.step if resume else 0
    with tempfile.TemporaryDirectory(prefix="launcher-replay-") as name:
        folder = RunDir(Path(name))
        with suppress(FileNotFoundError):
            shutil.copyfile(data.folder.roll_backs, folder.roll_backs)
        cluster = load.local_cluster()
        run = PreparedRun(recipe, cluster, data.facts, made, folder, data.prepared, resume, [])
        with rank_errors.explained(run, group, Heartbeat()):
            for record in _records(run, group, step):
                progress(1, record["step"] - start)
    return Replay(start, record["loss"], record["grad_norm"], record["data"])


def _on_one_process(recipe: Recipe) -> Recipe:
    """Return a recipe without what only affects speed, for one process on the CPU."""
    single = kinds.module("strategies", "single").Config()
    train = recipe.train.model_copy(update={"compile": False})
    return attention_kernels.runnable(recipe.model_copy(update={"strategy": single, "train": train}), "cpu")


def _checkpoint_before(folder: RunDir, step: int) -> SavedCheckpoint | None:
    """Return the newest undamaged checkpoint before a step; None: there is none."""
    left_out = roll_backs.left_out(folder)
    for saved in reversed(folder.whole()):
        if saved.step < step:
            with suppress(DamagedFile, OSError):
                saved.verify()
                if not roll_backs.is_abandoned(saved.state, left_out):
                    return saved
    return None


def _records(run: PreparedRun, group: ProcessGroup, step: int) -> Iterator[Record]:
    """Yield the records of the steps after the checkpoint up to `step`. The model is built again, from a checkpoint in
    the temporary folder, where frozen parameters begin to train."""
    while True:
        built, _ = build.build(run, group, StopMonitor(), run.resume, workers=0)
        try:
            for batch in built.batches:
                yield loop.step(built, batch, sync_step_info(group, batch), time.perf_counter())
                _evaluate_if_due(built)
                if built.progress.step >= min(step, built.until):
                    break
            if built.progress.step >= step:
                return
            run.folder.checkpoints.mkdir(exist_ok=True)
            load.dump(run.recipe, run.folder.recipe)
            loop.save(built)
        finally:
            built.saver.close()
        run = replace(run, resume=run.folder.saved(built.progress.step))


def _evaluate_if_due(run: Run) -> None:
    """Evaluate after a step if the learning rate depends on evaluations."""
    every = run.recipe.evaluate.every
    if run.validation is not None and run.recipe.schedule.uses_evaluations and every and run.progress.step % every == 0:
        loop.evaluate(run)
