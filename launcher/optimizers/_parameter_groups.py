"""Parameter groups: which parameters share a weight decay and a learning rate."""

from collections.abc import Hashable

import torch

from launcher.config.types import OptimizerConfig
from launcher.optimizers import ParameterGroup
from launcher.plan.layer_blocks import blocks


def parameter_groups(
    model: torch.nn.Module, config: OptimizerConfig, separate: set[torch.Tensor]
) -> list[ParameterGroup]:
    """Return groups of the trained parameters, in the order of the model. Parameters with fewer than two dimensions
    (biases and norms) have no weight decay. `separate`: parameters that must not share a group with others."""
    depth, groups = depths(model), dict[Hashable, ParameterGroup]()
    layers = len(blocks(model))
    top = layers + 1 if layers else 0
    for p in model.parameters():
        if not p.requires_grad:
            continue
        scale = 1.0 if config.layer_decay is None else config.layer_decay ** (top - depth[p])
        decay = config.weight_decay if p.ndim >= 2 else 0.0
        # a fused update requires DTensors with the same sharding
        sharding = (getattr(p, name, None) for name in ("device_mesh", "placements"))
        key = (p.ndim >= 2, scale, p in separate, *sharding)
        group = ParameterGroup(params=[], weight_decay=decay, scale=scale, separate=p in separate)
        groups.setdefault(key, group)["params"].append(p)
    return list(groups.values())


def depths(model: torch.nn.Module) -> dict[torch.Tensor, int]:
    """Return the depth of each parameter: 0 before the repeated layers, 1 to n in them, and n + 1 after them."""
    in_layers = {p: number for number, block in enumerate(blocks(model), start=1) for p in block.parameters()}
    out, last = dict[torch.Tensor, int](), 0
    for p in model.parameters():
        last = in_layers.get(p, last)
        out[p] = in_layers.get(p, last + 1 if last else 0)
    return out
