"""Tests of a model whose layers are split over ranks, with the whole model as the reference."""

import torch

from launcher.config.errors import Problem, UserError, first_line
from launcher.distributed.process_group import ProcessGroup
from launcher.strategies import Engine
from launcher.tasks import Batch, Task
from launcher.train.data_loader import ProbeBatch
from launcher.train.model_probe import ExactLoss
from launcher.train.precision import TOLERANCE, autocast
from launcher.train.sample_randomness import ModelRandomness


def check(engine: Engine, task: Task, example: Batch, process: ProcessGroup, whole: ExactLoss) -> None:
    """Compare loss and gradients with those of the whole model. Raises UserError if they differ."""
    engine.module.eval()
    try:
        with engine.accumulating(last=True) as model:
            with autocast(whole.precision, process.device):
                loss, _ = task.loss(model, example)
            engine.backward(loss)
    except (RuntimeError, ValueError, TypeError) as error:
        what = f"{type(engine.module).__name__} cannot be split over ranks: {first_line(error)[:200]} (take 1)"
        raise UserError(Problem("strategy.tensor_parallel", what)) from None
    partial = engine.partial(process)
    engine.clear()
    engine.module.train()
    if partial:
        what = f"{', '.join(partial[:3])} would get a part of its gradient on each rank (take 1)"
        raise UserError(Problem("strategy.tensor_parallel", what))
    split, tolerance = float(loss.detach()), max(1e-4, TOLERANCE[whole.precision])
    if not abs(split - whole.value) <= tolerance * max(1.0, abs(whole.value)):
        what = f"the loss of a sample is {split:.6f} split over ranks and {whole.value:.6f} whole (take 1)"
        raise UserError(Problem("strategy.tensor_parallel", what))


def find_shards(randomness: ModelRandomness, engine: Engine, task: Task, one: ProbeBatch, precision: str) -> None:
    """Run a forward in which each random draw detects the axes of which a tensor-parallel rank has a part."""
    randomness.finding_shards = True
    computing = autocast(precision, one.rows.keys.device)
    with torch.no_grad(), computing, randomness.drawing(one.rows), engine.accumulating(last=True) as model:
        task.loss(model, one.batch)
    randomness.finding_shards = False
