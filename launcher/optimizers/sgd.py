"""Stochastic gradient descent with momentum (Sutskever et al., 2013), as in torch."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from launcher import optimizers
from launcher.config.types import Beta, OptimizerConfig
from launcher.optimizers import ParameterGroup

if TYPE_CHECKING:
    import torch


class Config(OptimizerConfig):
    """Stochastic gradient descent with momentum (Sutskever et al., 2013), as in torch.optim.SGD. `weight_decay` is
    added to the gradient (L2)."""

    kind: Literal["sgd"] = "sgd"
    momentum: Beta = 0.0
    """Momentum factor."""
    nesterov: bool = False
    """Use Nesterov momentum."""
    dampening: float = Field(0.0, ge=0, lt=1)
    """Dampening of the momentum: each gradient except the first has weight 1 - dampening."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "Config":
        if self.nesterov and (self.momentum == 0 or self.dampening > 0):
            raise PydanticCustomError("nesterov", "nesterov needs momentum above 0 (such as 0.9), and no dampening")
        return self

    def moments(self, in_layers: float) -> float:
        return 1.0 if self.momentum else 0.0


class Optimizer(optimizers.Optimizer[Config]):
    def build(self, groups: list[ParameterGroup]) -> "torch.optim.Optimizer":
        import torch

        from launcher.optimizers._dampened_sgd import DampenedSGD

        config = self.config
        kind = DampenedSGD if config.momentum and config.dampening else torch.optim.SGD
        return kind(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, dampening=config.dampening
        )
