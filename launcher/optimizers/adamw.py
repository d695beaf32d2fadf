"""AdamW (Loshchilov and Hutter, 2019), fused, as in torch."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from launcher import optimizers
from launcher.config.types import Beta, OptimizerConfig
from launcher.optimizers import ParameterGroup

if TYPE_CHECKING:
    import torch


class Config(OptimizerConfig):
    """`weight_decay`: the fraction by which a step at `lr` 1 shrinks the weights. `betas`: decay rates of the running
    means of the gradient and its square. `eps`: the number added to the root of the latter."""

    kind: Literal["adamw"] = "adamw"
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)


class Optimizer(optimizers.Optimizer[Config]):
    def build(self, groups: list[ParameterGroup]) -> "torch.optim.Optimizer":
        import torch

        config = self.config
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
