"""The optimiser, and the learning rate as a pure function of the step."""

import math
from typing import Any

import torch

from launcher.config.recipe import AdamW, Constant, Cosine, Linear, StepDecay, WarmupStableDecay

Schedule = Constant | Linear | Cosine | WarmupStableDecay | StepDecay


def adamw(config: AdamW, model: torch.nn.Module) -> torch.optim.AdamW:
    """Fused AdamW over the parameters that train; biases and norms (fewer than two dimensions) do not decay."""
    groups: dict[Any, dict[str, Any]] = {}
    for p in model.parameters():
        if p.requires_grad:  # what is dealt differently over the ranks cannot be updated in one fused call
            kind = (p.ndim >= 2, *(getattr(p, name, None) for name in ("device_mesh", "placements")))
            decay = config.weight_decay if p.ndim >= 2 else 0.0
            groups.setdefault(kind, {"params": [], "weight_decay": decay})["params"].append(p)
    return torch.optim.AdamW(list(groups.values()), lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def clipping(norm: float, largest: float | None) -> float:
    """What gradients of this norm are multiplied by, so that their norm is at most `largest` (Pascanu et al., 2013)."""
    return 1.0 if largest is None else min(1.0, largest / (norm + 1e-6))


def factor(schedule: Schedule, step: int, steps: int) -> float:
    """What the learning rate is multiplied by at `step` (from 0) of `steps`. The warmup climbs from 1/n to 1."""
    warmup = warmup_steps(schedule, steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if isinstance(schedule, Linear):
        return 1 - (1 - schedule.floor) * min(1.0, done)
    if isinstance(schedule, Cosine):
        return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if isinstance(schedule, WarmupStableDecay):
        begin = steps - round(schedule.decay * steps)
        return 1 - (1 - schedule.floor) * max(0.0, (step - begin) / max(1, steps - begin))
    if isinstance(schedule, StepDecay):
        return float(schedule.gamma ** (step // schedule.every))
    return 1.0


def warmup_steps(schedule: Schedule, steps: int) -> int:
    """The steps of the warmup: a fraction of the run, or their number."""
    return round(schedule.warmup * steps) if schedule.warmup < 1 else int(schedule.warmup)
