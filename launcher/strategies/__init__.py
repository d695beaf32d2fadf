"""Strategies: how a model is distributed over ranks.

Each kind is one module of this package. It defines a `Config` (a subclass of `launcher.config.types.StrategyConfig`)
and a class `Strategy` that extends the class below. There is no other registration. Import torch inside functions,
because a plan imports the module on a login node.

A strategy wraps a model into an Engine. A micro-batch runs inside `accumulating`, because DDP decides before the
forward whether to reduce gradients in the backward. The engine returns the norm of the gradient before it updates
anything. Then the training loop computes, for all strategies, the factor for clipping and the loss scale, and whether
to take the step. All of these are tensors on the device: the host does not wait for them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeVar

from launcher.config.types import OptimizerConfig, StrategyConfig
from launcher.plan.collectives import Collective, RankStep

if TYPE_CHECKING:
    import torch

    from launcher.config.recipe import Recipe
    from launcher.distributed.process_group import ProcessGroup
    from launcher.optimizers import Optimizer
    from launcher.plan.model_spec import Architecture
    from launcher.train.model_probe import ModelProbe

C_co = TypeVar("C_co", bound=StrategyConfig, covariant=True)
Exchange = Literal["never", "in the last backward", "always"]


class NonfiniteGradients(NamedTuple):
    """Trained parameters whose gradient contains inf or nan on this rank, which has a shard of it, or the whole.

    `names`: of all trained parameters with a gradient; `flags`: whether it is such a parameter, bool, shape (names,).
    """

    names: Sequence[str]
    flags: "torch.Tensor"


class Engine(ABC):
    """A wrapped model and its optimiser."""

    module: "torch.nn.Module"
    """The wrapped model, for training and evaluation."""
    unwrapped: "torch.nn.Module"
    """The model itself, with canonical parameter names. Methods besides its forward, such as `generate`, are called on
    it."""
    exchanges: Exchange = "always"
    """When ranks exchange something in the forward and backward passes of a step: then a rank cannot compute a
    micro-batch again alone. `in the last backward`: of the last micro-batch."""
    casts_once: bool = False
    """Whether each parameter is the same tensor, with the same values, in all micro-batches of a step. Then its
    half-precision copy is made once."""
    rehearsals: int = 0
    """Number of backwards to run before the first step. Their gradients are discarded."""

    @abstractmethod
    def accumulating(self, last: bool) -> "AbstractContextManager[torch.nn.Module]":
        """Yield the model to call, for the forward and the `backward` of a micro-batch. `last`: the last micro-batch of
        a step, at which gradients are averaged over ranks."""

    @abstractmethod
    def backward(self, loss: "torch.Tensor") -> None:
        """Add the gradients of a loss to those of the step."""

    @abstractmethod
    def norm(self) -> "torch.Tensor":
        """Return the norm of the whole gradient, a scalar on the device, the same on every rank. All ranks call it."""

    @abstractmethod
    def nonfinite(self) -> NonfiniteGradients:
        """Return which gradients had a norm that is inf or nan at the last call of `norm`. All ranks call it, before
        `update`."""

    @abstractmethod
    def update(self, lr: float, factor: "torch.Tensor") -> None:
        """Multiply the gradients by `factor`, take an optimiser step with the rate `lr`, and clear the gradients.
        `factor`: a scalar on the device, fp64. If it is NaN, no weight, moment or count of steps changes."""

    @abstractmethod
    def clear(self) -> None:
        """Discard the gradients."""

    def partial(self, process: "ProcessGroup") -> list[str]:
        """Return the names of the parameters of which each rank has only a part of the gradient. All ranks call it
        after a backward."""
        return []

    @abstractmethod
    def state_dict(self) -> "dict[str, torch.Tensor]":
        """Return the state by canonical names: `model.<name>` and `optimizer.<name>.<moment>`.

        Shapes are those of the unwrapped model; each rank has its shard (DTensor). To load a state, a caller writes
        into these tensors and then calls `load_state_dict`.
        """

    @abstractmethod
    def load_state_dict(self, state: "dict[str, torch.Tensor]") -> None:
        """Apply the values that were loaded into the tensors of `state_dict`."""


@dataclass(frozen=True)
class EngineParts:
    """A model on its device, before a strategy makes an engine of it. `optimizer`: its `for_model` builds the torch
    optimiser."""

    model: "torch.nn.Module"
    probe: "ModelProbe"
    optimizer: "Optimizer[OptimizerConfig]"
    precision: str
    process: "ProcessGroup"


@dataclass(frozen=True)
class MemoryShare:
    """The fractions of weights, gradients and optimiser state that one device holds between steps, from 0 to 1.

    `gathered`: number of parameters that are gathered during computation, besides those that the device holds. `flat`:
    bytes of the strategy's own buffers. `host`: data in host memory for each rank, relative to the size of the weights.
    `moved`: the fraction of the optimiser state that is in host memory.
    """

    weights: float = 1.0
    gradients: float = 1.0
    optimizer: float = 1.0
    gathered: int = 0
    flat: int = 0
    host: float = 0.0
    moved: float = 0.0


class Strategy(ABC, Generic[C_co]):
    """Distribution of a model and its training state over the ranks. Base class of the strategies; each is created from
    the Config of its kind."""

    libraries: tuple[str, ...] = ()
    """Optional packages that the strategy imports."""

    def __init__(self, config: C_co) -> None:
        self.config = config

    @staticmethod
    @abstractmethod
    def layouts(ranks: int) -> "Sequence[StrategyConfig]":
        """Return the Configs for this number of ranks that `launcher parity` compares and a plan proposes."""

    def variants(self) -> "Sequence[StrategyConfig]":
        """Return this Config with other options, which `launcher tune` tries. They affect speed only, and round as this
        one does."""
        return []

    def check(self, ranks: int) -> str | None:
        """Return the reason why the strategy cannot run on this number of ranks; None: it can."""
        return None

    def refusals(self, recipe: "Recipe", heads: int) -> list[tuple[str, str]]:
        """Return the keys of a recipe that the strategy does not support, each with the reason and an alternative.
        `heads`: the number of attention heads, 0 if unknown."""
        return []

    def axes(self, ranks: int) -> dict[str, int]:
        """Return the size of each axis of the device mesh, the outermost first: `replica`, `shard`, `tensor`."""
        return {}

    @abstractmethod
    def memory_share(self, shape: "Architecture", ranks: int) -> MemoryShare:
        """Return the part of a model of this shape that a device holds."""

    def state_share(self, ranks: int, of_node: int) -> float:
        """Return the fraction of a checkpoint's tensors that `of_node` neighbouring ranks hold together, from 0 to
        1."""
        return 1.0

    def collectives(self, shape: "Architecture", step: RankStep) -> list[Collective]:
        """Return what the ranks exchange in a step, without scalars. The default: each gradient is averaged, as in
        DDP."""
        return [Collective("all-reduce", shape.trained * step.weight, 1, step.ranks, "last backward")]

    def load(self, device: str) -> None:
        """Import the optional packages, for a type of device."""

    @abstractmethod
    def wrap(self, unwrapped: EngineParts) -> Engine:
        """Wrap a model that is on its device into an engine."""
