"""Strategies: how a model is distributed over ranks. A kind is one module here with a `Config` (a subclass of
`launcher.config.types.StrategyConfig`) and a class `Strategy` that extends the one below; the file is the registration.
Import torch inside functions: a plan reads every Config on a login node.

A strategy wraps a model into an Engine. A micro-batch runs inside `accumulating`, because DDP decides before the
forward whether to reduce in the backward. An engine returns the norm of the gradient before it updates anything. The
training loop decides for all strategies whether to take the step, and with which factor for clipping and the loss
scale.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from launcher.config.types import OptimizerConfig, StrategyConfig

if TYPE_CHECKING:
    import torch

    from launcher.config.recipe import Recipe
    from launcher.distributed.process_group import ProcessGroup
    from launcher.optimizers import Optimizer
    from launcher.plan.model_spec import Architecture
    from launcher.train.model_probe import ModelProbe

C_co = TypeVar("C_co", bound=StrategyConfig, covariant=True)


class Engine(ABC):
    """A wrapped model and its optimiser."""

    module: "torch.nn.Module"
    """The wrapped model, for training and evaluation."""
    unwrapped: "torch.nn.Module"
    """The model itself, whose parameter names are canonical: what a forward of its own, such as `generate`, is called
    on."""
    rehearsals: int = 0
    """The number of backwards to run, and drop, before the first step."""

    @abstractmethod
    def accumulating(self, last: bool) -> "AbstractContextManager[torch.nn.Module]":
        """The context of the forward and the `backward` of a micro-batch; yields the model to call. Gradients are
        averaged over ranks at the last one of a step."""

    @abstractmethod
    def backward(self, loss: "torch.Tensor") -> None:
        """Add the gradients of a loss to those of the step."""

    @abstractmethod
    def norm(self) -> float:
        """The norm of the whole gradient, the same on every rank. All ranks call it."""

    @abstractmethod
    def nonfinite(self) -> dict[str, bool]:
        """For each trained parameter, in the model's order: whether the gradient that this rank holds (a shard, or the
        whole) contains inf or nan. A collective: every rank must call it."""

    @abstractmethod
    def update(self, lr: float, factor: float) -> None:
        """Multiply the gradients by `factor`, take an optimiser step with the rate `lr`, and clear the gradients."""

    @abstractmethod
    def clear(self) -> None:
        """Drop the gradients."""

    def partial(self, process: "ProcessGroup") -> list[str]:
        """The parameters whose gradient is only a part of the whole on each rank, by name. All ranks call it after a
        backward."""
        return []

    @abstractmethod
    def state_dict(self) -> "dict[str, torch.Tensor]":
        """The state by canonical names: `model.<name>` and `optimizer.<name>.<moment>`. Shapes are those of the
        unwrapped model, each rank has its shard (DTensor). A load writes into these tensors and then calls
        `load_state_dict`."""

    @abstractmethod
    def load_state_dict(self, state: "dict[str, torch.Tensor]") -> None:
        """Apply the values that were loaded into the tensors of `state_dict`."""


@dataclass(frozen=True)
class EngineParts:
    """A model on its device before a strategy wraps it. `optimizer`: builds its torch optimiser (`for_model`)."""

    model: "torch.nn.Module"
    probe: "ModelProbe"
    optimizer: "Optimizer[OptimizerConfig]"
    precision: str
    process: "ProcessGroup"


@dataclass(frozen=True)
class MemoryShare:
    """The fractions of weights, gradients and optimiser state that one device holds between steps, from 0 to 1.

    `gathered`: parameters that are gathered while it computes, besides those that it holds. `flat`: bytes of the
    strategy's own buffers. `host`: data in host memory for each rank, over the size of the weights; `moved`: the
    fraction of the optimiser state that is in host memory too.
    """

    weights: float = 1.0
    gradients: float = 1.0
    optimizer: float = 1.0
    gathered: int = 0
    flat: int = 0
    host: float = 0.0
    moved: float = 0.0


class Strategy(ABC, Generic[C_co]):
    """How a model and its training state are distributed over the ranks. Base class of the strategies; each is built
    from the Config of its kind."""

    libraries: tuple[str, ...] = ()
    """Optional packages that it imports."""

    def __init__(self, config: C_co) -> None:
        self.config = config

    @staticmethod
    @abstractmethod
    def layouts(ranks: int) -> "Sequence[StrategyConfig]":
        """The Configs to consider for so many ranks: `launcher parity` compares them, and a plan proposes them."""

    def check(self, ranks: int) -> str | None:
        """The reason why it cannot run on so many ranks; None: it can."""
        return None

    def refusals(self, recipe: "Recipe", heads: int) -> list[tuple[str, str]]:
        """The keys of a recipe that it does not support, each with the reason and an alternative. `heads`: number of
        the model's attention heads, 0 if unknown."""
        return []

    def axes(self, ranks: int) -> dict[str, int]:
        """The sizes of the axes of the device mesh by name, the outermost first: `replica`, `shard`, `tensor`."""
        return {}

    @abstractmethod
    def memory_share(self, shape: "Architecture", ranks: int) -> MemoryShare:
        """The part of a model of this shape that a device holds."""

    def load(self, device: str) -> None:
        """Import its optional packages, for a type of device."""

    @abstractmethod
    def wrap(self, unwrapped: EngineParts) -> Engine:
        """Wrap a model that is on its device."""
