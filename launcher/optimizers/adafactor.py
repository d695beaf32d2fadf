"""Adafactor (Shazeer and Stern, 2018), as in torch: it keeps the mean squares of the rows and columns of a matrix."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from launcher import optimizers
from launcher.config.types import OptimizerConfig
from launcher.optimizers import ParameterGroup

if TYPE_CHECKING:
    import torch


class Config(OptimizerConfig):
    """The rate of step t is the smaller of `lr` and 1 / sqrt(t), times the root mean square of the parameter or `eps`,
    whichever is larger. `beta2_decay`: the squares of step t count t ** beta2_decay. `d`: the largest root mean square
    of an update."""

    kind: Literal["adafactor"] = "adafactor"
    beta2_decay: float = Field(-0.8, le=0)
    eps: float = Field(1e-3, gt=0)
    d: float = Field(1.0, ge=1)

    elementwise: ClassVar[bool] = False

    def moments(self, in_layers: float) -> float:
        return 0.0


class Optimizer(optimizers.Optimizer[Config]):
    def build(self, groups: list[ParameterGroup]) -> "torch.optim.Optimizer":
        import torch

        config = self.config
        return torch.optim.Adafactor(
            groups, lr=config.lr, beta2_decay=config.beta2_decay, eps=(None, config.eps), d=config.d
        )
