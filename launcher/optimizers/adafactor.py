"""Adafactor (Shazeer and Stern, 2018), as in torch: it stores the mean squares of the rows and columns of a matrix."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from launcher import optimizers
from launcher.config.types import OptimizerConfig
from launcher.optimizers import ParameterGroup

if TYPE_CHECKING:
    import torch


class Config(OptimizerConfig):
    """Adafactor (Shazeer and Stern, 2018), as in torch.optim.Adafactor. For a matrix it stores the mean squares of rows
    and columns. The learning rate of step t is min(lr, 1 / sqrt(t)) times the root mean square of the parameter."""

    kind: Literal["adafactor"] = "adafactor"
    beta2_decay: float = Field(-0.8, le=0)
    """Exponent of the decay rate: squares of step t have weight t ** beta2_decay."""
    eps: float = Field(1e-3, gt=0)
    """Minimum root mean square of a parameter, for the learning rate."""
    d: float = Field(1.0, ge=1)
    """Maximum root mean square of an update."""

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
