"""Muon (Jordan et al., 2024) for the matrices of the repeated layers, AdamW for everything else."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from launcher import optimizers
from launcher.config.types import Beta, OptimizerConfig
from launcher.optimizers import ParameterGroup

if TYPE_CHECKING:
    import torch


class Config(OptimizerConfig):
    """Muon (Jordan et al., 2024) for the matrices of the repeated layers. Their momentum is orthogonalized by
    Newton-Schulz steps. All other parameters (embeddings, heads, biases, norms) use AdamW."""

    kind: Literal["muon"] = "muon"
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay, with no effect on biases and normalization weights."""
    momentum: Beta = 0.95
    """Momentum factor."""
    nesterov: bool = True
    """Use Nesterov momentum."""
    ns_steps: int = Field(5, ge=1, lt=100)
    """Number of Newton-Schulz steps."""
    adjust: Literal["original", "match_rms_adamw"] = "match_rms_adamw"
    """Scaling of the learning rate by a matrix's shape. `original`: as in Jordan et al.; `match_rms_adamw`: so that the
    rates of AdamW are suitable (Liu et al., 2025)."""
    adam_lr: float | None = Field(None, gt=0)
    """Learning rate of the parameters that use AdamW. Default: `lr`."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's decay rates of the moving averages of the gradient and of its square."""
    eps: float = Field(1e-8, gt=0)
    """Number added to AdamW's denominator."""

    elementwise: ClassVar[bool] = False

    def moments(self, in_layers: float) -> float:
        return 2.0 - in_layers


class Optimizer(optimizers.Optimizer[Config]):
    def separate(self, model: "torch.nn.Module") -> "set[torch.Tensor]":
        """Return the matrices of the repeated layers, except embeddings."""
        import torch

        from launcher.plan.layer_blocks import blocks

        modules = [m for block in blocks(model) for m in block.modules() if not isinstance(m, torch.nn.Embedding)]
        return {p for m in modules for p in m.parameters(recurse=False) if p.ndim == 2}

    def build(self, groups: list[ParameterGroup]) -> "torch.optim.Optimizer":
        import torch

        from launcher.optimizers._combined import CombinedOptimizer

        config, parts = self.config, list[torch.optim.Optimizer]()
        matrices = [group for group in groups if group["separate"]]
        others = [group for group in groups if not group["separate"]]
        if matrices:
            muon = torch.optim.Muon(
                matrices, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, ns_steps=config.ns_steps,
                adjust_lr_fn=config.adjust,
            )  # fmt: skip
            parts.append(muon)
        if others:
            rate = config.adam_lr or config.lr
            for group in others:
                group["scale"] *= rate / config.lr
            parts.append(torch.optim.AdamW(others, lr=rate, betas=config.betas, eps=config.eps, fused=True))
        return CombinedOptimizer(parts)
