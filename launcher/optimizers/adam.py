"""Adam (Kingma and Ba, 2015), fused, as in torch."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from launcher import optimizers
from launcher.config.types import Beta, OptimizerConfig
from launcher.optimizers import ParameterGroup

if TYPE_CHECKING:
    import torch


class Config(OptimizerConfig):
    """Adam (Kingma and Ba, 2015). Unlike in adamw, `weight_decay` is added to the gradient (L2)."""

    adam_like: ClassVar[bool] = True

    kind: Literal["adam"] = "adam"
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of the moving averages of the gradient and of its square."""
    eps: float = Field(1e-8, gt=0)
    """Number added to the denominator."""


class Optimizer(optimizers.Optimizer[Config]):
    def build(self, groups: list[ParameterGroup]) -> "torch.optim.Optimizer":
        import torch

        config = self.config
        return torch.optim.Adam(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
