"""The optimisers that a recipe may name, each with all its keys."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, SerializeAsAny, model_validator
from pydantic_core import PydanticCustomError

from launcher.config.types import Strict, one_of

Beta = Annotated[float, Field(ge=0, lt=1)]


class _Optimizer(Strict):
    """Keys of every optimiser. Biases and normalization weights have no weight decay."""

    lr: float = Field(gt=0)
    """Learning rate, which the schedule multiplies."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay, with no effect on biases and normalization weights."""
    clip: float | None = Field(1.0, gt=0)
    """Maximum norm of the gradient over all parameters; null: no clipping."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Ratio of a layer's learning rate to that of the next layer (Howard and Ruder, 2018; Clark et al., 2020). The head
    has `lr`, the embeddings the smallest rate."""

    elementwise: ClassVar[bool] = True
    """Whether it updates each number by itself, so that a piece of a parameter is updated as in the whole."""

    def moments(self, in_layers: float) -> float:
        """What it keeps, in sizes of the whole weights, of which a share `in_layers` is in repeated layers."""
        return 2.0


class SGD(_Optimizer):
    """Stochastic gradient descent with momentum (Sutskever et al., 2013), as in torch.optim.SGD. `weight_decay` is
    added to the gradient (L2)."""

    kind: Literal["sgd"] = "sgd"
    """`sgd`"""
    momentum: Beta = 0.0
    """Momentum factor."""
    nesterov: bool = False
    """Use Nesterov momentum."""
    dampening: float = Field(0.0, ge=0, lt=1)
    """Dampening of the momentum: each gradient but the first is weighted by 1 - dampening."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "SGD":
        if self.nesterov and (self.momentum == 0 or self.dampening > 0):
            raise PydanticCustomError("nesterov", "nesterov needs momentum above 0 (such as 0.9), and no dampening")
        return self

    def moments(self, in_layers: float) -> float:
        return 1.0 if self.momentum else 0.0


class Adam(_Optimizer):
    """Adam (Kingma and Ba, 2015). `weight_decay` is added to the gradient (L2), other than in adamw."""

    kind: Literal["adam"] = "adam"
    """`adam`"""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of the moving averages of the gradient and of its square."""
    eps: float = Field(1e-8, gt=0)
    """Number added to the denominator."""


class AdamW(_Optimizer):
    """AdamW (Loshchilov and Hutter, 2019)."""

    kind: Literal["adamw"] = "adamw"
    """`adamw`"""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay, with no effect on biases and normalization weights."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of the moving averages of the gradient and of its square."""
    eps: float = Field(1e-8, gt=0)
    """Number added to the denominator."""


class Adafactor(_Optimizer):
    """Adafactor (Shazeer and Stern, 2018), as in torch.optim.Adafactor. For a matrix it stores the mean squares of rows
    and columns. The learning rate of step t is min(lr, 1 / sqrt(t)) times the root mean square of the parameter."""

    kind: Literal["adafactor"] = "adafactor"
    """`adafactor`"""
    beta2_decay: float = Field(-0.8, le=0)
    """Exponent of the decay rate: squares of step t are weighted by t ** beta2_decay."""
    eps: float = Field(1e-3, gt=0)
    """Minimum root mean square of a parameter in its learning rate."""
    d: float = Field(1.0, ge=1)
    """Maximum root mean square of an update."""

    elementwise: ClassVar[bool] = False

    def moments(self, in_layers: float) -> float:
        return 0.0


class Muon(_Optimizer):
    """Muon (Jordan et al., 2024) for the matrices of the repeated layers: momentum, orthogonalized by Newton-Schulz
    steps. All other parameters (embeddings, heads, biases, norms) use AdamW."""

    kind: Literal["muon"] = "muon"
    """`muon`"""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay, with no effect on biases and normalization weights."""
    momentum: Beta = 0.95
    """Momentum factor."""
    nesterov: bool = True
    """Use Nesterov momentum."""
    ns_steps: int = Field(5, ge=1, lt=100)
    """Newton-Schulz steps."""
    adjust: Literal["original", "match_rms_adamw"] = "match_rms_adamw"
    """Scale of the learning rate by a matrix's shape: as in the original, or such that a rate that suits AdamW suits
    Muon (Liu et al., 2025)."""
    adam_lr: float | None = Field(None, gt=0)
    """Learning rate of AdamW's parameters. Default: `lr`."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's decay rates of the moving averages of the gradient and of its square."""
    eps: float = Field(1e-8, gt=0)
    """Number added to AdamW's denominator."""

    elementwise: ClassVar[bool] = False

    def moments(self, in_layers: float) -> float:
        return 2.0 - in_layers


_TYPES: dict[str, type[Strict]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "adafactor": Adafactor, "muon": Muon}

AnyOptimizer = SGD | Adam | AdamW | Adafactor | Muon
Optimizer = Annotated[SerializeAsAny[AnyOptimizer], one_of(_TYPES)]
