"""Optimisers, all of them torch's own, and the clipping of gradients."""

from typing import Any

import torch

from launcher.config import optimizers
from launcher.config.optimizers import AnyOptimizer
from launcher.plan.layer_blocks import blocks


def make(config: AnyOptimizer, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimiser of the parameters that train; biases and norms (fewer than two dimensions) do not decay. A group's
    rate is the run's times its `scale`. Fused where torch has it for all that a parameter may be (DTensor)."""
    options: dict[str, Any] = {"lr": config.lr}
    match config:
        case optimizers.SGD():
            options |= {"momentum": config.momentum, "nesterov": config.nesterov, "dampening": config.dampening}
            kind = Dampened if config.momentum and config.dampening else torch.optim.SGD
            return kind(_groups(config, model), **options)
        case optimizers.Adam():
            return torch.optim.Adam(_groups(config, model), betas=config.betas, eps=config.eps, fused=True, **options)
        case optimizers.AdamW():
            return torch.optim.AdamW(_groups(config, model), betas=config.betas, eps=config.eps, fused=True, **options)
        case optimizers.Adafactor():
            options |= {"beta2_decay": config.beta2_decay, "eps": (None, config.eps), "d": config.d}
            return torch.optim.Adafactor(_groups(config, model), **options)
        case optimizers.Muon():
            return _muon(config, model)


def depths(model: torch.nn.Module) -> dict[torch.Tensor, int]:
    """How deep each parameter is: 0 before the repeated layers, in their order 1 to n inside, and n + 1 after them."""
    inside = {p: number for number, block in enumerate(blocks(model), start=1) for p in block.parameters()}
    found, last = dict[torch.Tensor, int](), 0
    for p in model.parameters():
        last = inside.get(p, last)
        found[p] = inside.get(p, last + 1 if last else 0)
    return found


def kept(config: AnyOptimizer) -> list[str]:
    """The names of what the optimiser keeps for a parameter, found by a step."""
    probe = torch.nn.Linear(1, 1, bias=False)
    optimizer = make(config, probe)
    probe.weight.grad = torch.zeros_like(probe.weight)
    optimizer.step()
    return list(optimizer.state[probe.weight])


def clipping(norm: float, largest: float | None) -> float:
    """What gradients of this norm are multiplied by, so that their norm is at most `largest` (Pascanu et al., 2013)."""
    return 1.0 if largest is None else min(1.0, largest / (norm + 1e-6))


class Dampened(torch.optim.SGD):  # type: ignore[misc]
    """SGD that counts its steps: torch makes the momentum of the first gradient, which is not dampened. Zeros that were
    there before it, as a state that is asked for early has them, become the same where nothing is dampened."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            states = [self.state[p] for p in group["params"] if p.grad is not None]
            for state in states:
                state.setdefault("step", torch.zeros(()))
            begun = any(state["step"] for state in states)
            group["dampening"] = self.defaults["dampening"] if begun else 0.0
            for state in states:
                if begun and not state["step"]:  # it began to train later than others of its group
                    state["momentum_buffer"] = None
                state["step"] += 1
        return super().step(closure)


class CombinedOptimizer(torch.optim.Optimizer):  # type: ignore[misc]
    """Several optimisers as one, each over its own parameters."""

    def __init__(self, parts: list[torch.optim.Optimizer]):
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        for part in parts:
            part.state = self.state

    def step(self, closure: Any = None) -> Any:
        for part in self._parts:
            part.step()


def _muon(config: optimizers.Muon, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Muon for the matrices of the repeated layers but for embeddings, AdamW for all else."""
    inner = [m for block in blocks(model) for m in block.modules() if not isinstance(m, torch.nn.Embedding)]
    matrices = {p for m in inner for p in m.parameters(recurse=False) if p.ndim == 2}
    groups = _groups(config, model, matrices)
    muons = [group for group in groups if group["params"][0] in matrices]
    others = [group for group in groups if group["params"][0] not in matrices]
    parts = list[torch.optim.Optimizer]()
    if muons:
        options: dict[str, Any] = {"momentum": config.momentum, "nesterov": config.nesterov}
        options |= {"ns_steps": config.ns_steps, "adjust_lr_fn": config.adjust}
        parts.append(torch.optim.Muon(muons, lr=config.lr, **options))
    if others:
        rate = config.adam_lr or config.lr
        for group in others:
            group["scale"] *= rate / config.lr
        parts.append(torch.optim.AdamW(others, lr=rate, betas=config.betas, eps=config.eps, fused=True))
    return CombinedOptimizer(parts)


def _groups(
    config: AnyOptimizer, model: torch.nn.Module, apart: set[torch.Tensor] | None = None
) -> list[dict[str, Any]]:
    """Parameters by what is done to them alike. `apart`: those that are in groups of their own."""
    depth, layers, groups = depths(model), len(blocks(model)), dict[Any, dict[str, Any]]()
    top = layers + 1 if layers else 0
    for p in model.parameters():
        if not p.requires_grad:
            continue
        scale = 1.0 if config.layer_decay is None else config.layer_decay ** (top - depth[p])
        decay = config.weight_decay if p.ndim >= 2 else 0.0
        # what is dealt differently over the ranks cannot be updated in one fused call
        dealt = (getattr(p, name, None) for name in ("device_mesh", "placements"))
        kind = (p.ndim >= 2, scale, p in (apart or ()), *dealt)
        groups.setdefault(kind, {"params": [], "weight_decay": decay, "scale": scale})["params"].append(p)
    return list(groups.values())
