"""Some steps of a recipe under one strategy after another, on the same ranks: what they record and leave behind."""

import hashlib
import time
from dataclasses import replace
from typing import Any

import numpy as np


def build(process: Any, folder: Any, strategy: dict[str, Any], train: dict[str, Any] | None = None, **more: Any) -> Any:
    """A rank's Run of a prepared folder under another strategy. `train`: keys of the recipe that are others, and so is
    `task` in `more`."""
    from launcher import rank_training
    from launcher.config import kinds
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.prepare import run_setup

    made = run_setup.load(folder)
    chosen = kinds.module("strategies", strategy["kind"]).Config.model_validate(strategy)
    kept = made.recipe.train.model_copy(update=train or {})
    task = made.recipe.task.model_copy(update=more.get("task", {}))
    recipe = made.recipe.model_copy(update={"strategy": chosen, "train": kept, "task": task})
    return rank_training.build(replace(made, recipe=recipe), process, StopMonitor(), more.get("resume"), workers=0)[0]


def refusal(process: Any, folder: Any, strategy: dict[str, Any]) -> str:
    """What is told where a run cannot be built under a strategy; nothing where it can."""
    from launcher.config.errors import UserError

    try:
        build(process, folder, strategy)
    except UserError as error:
        return str(error)
    return ""


def take(run: Any, steps: int) -> list[dict[str, Any]]:
    """The records of the next steps."""
    from launcher.train import loop, step_sync

    begin, sync = run.progress.step, step_sync.sync_step_info
    batches = (run.batches.dataset[step] for step in range(begin, begin + steps))
    return [loop.step(run, batch, sync(run.process, batch), time.perf_counter()) for batch in batches]


def whole(state: dict[str, Any]) -> dict[str, Any]:
    """A state by its canonical names, as whole arrays; all ranks call it."""
    from launcher.strategies._zero_engine import _whole

    return {name: _whole(tensor).detach().cpu().numpy().copy() for name, tensor in state.items()}


def held(state: dict[str, Any]) -> dict[str, bytes]:
    """The bytes that this rank itself holds of each tensor of a state."""
    from launcher.strategies._torch_engine import local

    return {name: local(tensor).contiguous().numpy().tobytes() for name, tensor in state.items()}


def own(run: Any) -> bytes:
    """A hash of the parameters that stand whole on this rank, those that a forward would use."""
    from torch.distributed.tensor import DTensor

    parts = hashlib.blake2b()
    for parameter in run.engine.module.parameters():
        if not isinstance(parameter, DTensor):
            parts.update(parameter.detach().contiguous().numpy().tobytes())
    return parts.digest()


def walk(process: Any, folder: Any, strategy: dict[str, Any], train: dict[str, Any], steps: int) -> dict[str, Any]:
    """The first state, `steps` steps, another look, the state given back to the engine, and one step more."""
    from launcher.strategies._torch_engine import local

    run = build(process, folder, strategy, train)
    first = run.engine.state_dict()
    told = {"shapes": {name: tuple(tensor.shape) for name, tensor in first.items()}, "first": whole(first)}
    records = take(run, steps)
    gradients = [p.grad for p in run.engine.module.parameters() if p.grad is not None]
    told["left"] = any(bool(local(gradient).any()) for gradient in gradients)
    state = run.engine.state_dict()
    told["state"], mine, before = whole(state), held(state), own(run)
    run.engine.load_state_dict(state)
    told["unchanged"] = mine == held(run.engine.state_dict()) and before == own(run)
    told["records"] = records + take(run, 1)
    return told if process.rank == 0 else {**told, "first": {}, "state": {}}


def walks(process: Any, folder: Any, cases: Any, steps: int = 5) -> list[dict[str, Any]]:
    """A walk for each (strategy, train)."""
    told = []
    for strategy, train in cases:
        try:
            told.append(walk(process, folder, strategy, train, steps))
        except BaseException as error:
            error.add_note(f"under {strategy} {train}")
            raise
    return told


def records(process: Any, folder: Any, cases: Any, steps: int) -> list[list[dict[str, Any]]]:
    """The records alone, for each (strategy, train)."""
    return [take(build(process, folder, strategy, train), steps) for strategy, train in cases]


def apart(there: dict[str, Any], here: dict[str, Any], like: str) -> float:
    """How far two states are from each other in those tensors whose name has `like` in it: the norm of the difference
    over the norm of the first."""
    names = [name for name in there if like in name]
    gap = sum(float(np.square(there[n].astype("f8") - here[n].astype("f8")).sum()) for n in names)
    return float(np.sqrt(gap / sum(float(np.square(there[n].astype("f8")).sum()) for n in names)))
