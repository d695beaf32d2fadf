"""The optimisers that a recipe may name, each with all its keys."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, SerializeAsAny, model_validator
from pydantic_core import PydanticCustomError

from launcher.config.types import Strict, one_of

Beta = Annotated[float, Field(ge=0, lt=1)]


class _Optimizer(Strict):
    """`lr`: what the schedule multiplies. `clip`: the largest gradient norm. Biases and norms do not decay.
    `layer_decay`: the learning rate of a layer over that of the next one (Howard and Ruder, 2018; Clark et al., 2020):
    the head has `lr`, the embeddings the least."""

    lr: float = Field(gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip: float | None = Field(1.0, gt=0)
    layer_decay: float | None = Field(None, gt=0, le=1)

    elementwise: ClassVar[bool] = True
    """Whether it updates each number by itself, so that a piece of a parameter is updated as in the whole."""

    def moments(self, in_layers: float) -> float:
        """What it keeps, in sizes of the whole weights, of which a share `in_layers` is in repeated layers."""
        return 2.0


class SGD(_Optimizer):
    """Stochastic gradient descent with momentum (Sutskever et al., 2013), as torch has it. `weight_decay` is added to
    the gradient (L2). `dampening`: a gradient counts 1 - dampening in the momentum, the first one 1."""

    kind: Literal["sgd"] = "sgd"
    momentum: Beta = 0.0
    nesterov: bool = False
    dampening: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "SGD":
        if self.nesterov and (self.momentum == 0 or self.dampening > 0):
            raise PydanticCustomError("nesterov", "nesterov needs momentum above 0 (such as 0.9), and no dampening")
        return self

    def moments(self, in_layers: float) -> float:
        return 1.0 if self.momentum else 0.0


class Adam(_Optimizer):
    """Adam (Kingma and Ba, 2015). `weight_decay` is added to the gradient (L2): adamw decays the weights themselves."""

    kind: Literal["adam"] = "adam"
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)


class AdamW(_Optimizer):
    """AdamW (Loshchilov and Hutter, 2019)."""

    kind: Literal["adamw"] = "adamw"
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)


class Adafactor(_Optimizer):
    """Adafactor (Shazeer and Stern, 2018), as torch has it: of a matrix it keeps the mean squares of rows and columns.
    At step t the rate is the smaller of `lr` and 1 / sqrt(t), times the root mean square of the parameter, which counts
    `eps` at the least. `beta2_decay`: the squares of step t count t ** beta2_decay. `d`: the largest root mean square
    of an update."""

    kind: Literal["adafactor"] = "adafactor"
    beta2_decay: float = Field(-0.8, le=0)
    eps: float = Field(1e-3, gt=0)
    d: float = Field(1.0, ge=1)

    elementwise: ClassVar[bool] = False

    def moments(self, in_layers: float) -> float:
        return 0.0


class Muon(_Optimizer):
    """Muon (Jordan et al., 2024) for the matrices of the repeated layers: their momentum, made orthogonal by `ns_steps`
    steps of Newton and Schulz. All else (embeddings, heads, biases, norms) has AdamW, with `adam_lr`, which is `lr` by
    itself, `betas` and `eps`. `adjust`: how a matrix's shape counts in its rate: as in Muon's original, or such that a
    rate that suits AdamW suits Muon as well (Liu et al., 2025)."""

    kind: Literal["muon"] = "muon"
    weight_decay: float = Field(0.1, ge=0)
    momentum: Beta = 0.95
    nesterov: bool = True
    ns_steps: int = Field(5, ge=1, lt=100)
    adjust: Literal["original", "match_rms_adamw"] = "match_rms_adamw"
    adam_lr: float | None = Field(None, gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)

    elementwise: ClassVar[bool] = False

    def moments(self, in_layers: float) -> float:
        return 2.0 - in_layers


_TYPES: dict[str, type[Strict]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "adafactor": Adafactor, "muon": Muon}

AnyOptimizer = SGD | Adam | AdamW | Adafactor | Muon
Optimizer = Annotated[SerializeAsAny[AnyOptimizer], one_of(_TYPES)]
