"""How a model is spread over ranks. A kind is one module here with a `Config` (a subclass of
`launcher.config.types.StrategyConfig`) and a class `Strategy` that extends the one below; the file is the registration.
Import torch inside functions: a plan reads every Config on a login node.

The seam is the Engine: whether a micro-batch is the last of its step must be known before its forward (DDP decides
there whether to reduce), so a micro-batch runs inside `accumulating`. An engine tells the norm of the gradients before
it updates anything: whether to take the step, and the factor of clipping and loss scale, is decided in the loop, once
for every strategy.
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
    """A model that trains, wrapped."""

    module: "torch.nn.Module"
    """What to call; evaluation uses it too."""
    rehearsals: int = 0
    """Backwards it wants to see, and drop, before the first step."""

    @abstractmethod
    def accumulating(self, last: bool) -> "AbstractContextManager[torch.nn.Module]":
        """A micro-batch: its forward and `backward` belong inside. Gradients are averaged over ranks at the last."""

    @abstractmethod
    def backward(self, loss: "torch.Tensor") -> None:
        """Add the gradients of a loss."""

    @abstractmethod
    def norm(self) -> float:
        """The norm of the whole gradient, the same on every rank; all ranks call it."""

    @abstractmethod
    def nonfinite(self) -> dict[str, bool]:
        """For each trained parameter, in the model's order, whether what this rank holds of its gradient is not finite.
        All ranks call it."""

    @abstractmethod
    def update(self, lr: float, factor: float) -> None:
        """Multiply the gradients, step, and clear them."""

    @abstractmethod
    def clear(self) -> None:
        """Drop the gradients."""

    def partial(self, process: "ProcessGroup") -> list[str]:
        """The parameters whose gradient is only a part of the whole on each rank, by name. All ranks call it after a
        backward."""
        return []

    @abstractmethod
    def state_dict(self) -> "dict[str, torch.Tensor]":
        """`model.<name>` and `optimizer.<name>.<moment>`: canonical names and shapes whatever wraps the model, each
        rank its share (DTensor). Loading writes into these tensors and then calls `load_state_dict`."""

    @abstractmethod
    def load_state_dict(self, state: "dict[str, torch.Tensor]") -> None:
        """Take over what has been loaded into the tensors of `state_dict`."""


@dataclass(frozen=True)
class UnwrappedModel:
    """A model on its device, before anything wraps it, and what will train it."""

    model: "torch.nn.Module"
    probe: "ModelProbe"
    optimizer: "Optimizer[OptimizerConfig]"
    precision: str
    process: "ProcessGroup"


@dataclass(frozen=True)
class MemoryShare:
    """What share of a model one device holds, between steps: 1 is all of it, 0 none. `gathered`: parameters that are
    there whole for a moment while it computes, over what it holds. `flat`: bytes of buffers of the strategy's own.
    `host`: what is on the host instead, for each rank, in sizes of the whole weights, and `moved`: what share of the
    optimiser's moments is there as well."""

    weights: float = 1.0
    gradients: float = 1.0
    optimizer: float = 1.0
    gathered: int = 0
    flat: int = 0
    host: float = 0.0
    moved: float = 0.0


class Strategy(ABC, Generic[C_co]):
    """How one Config spreads a model."""

    libraries: tuple[str, ...] = ()
    """What it imports that the launcher does not come with."""

    def __init__(self, config: C_co) -> None:
        self.config = config

    @staticmethod
    @abstractmethod
    def layouts(ranks: int) -> "Sequence[StrategyConfig]":
        """The Configs worth trying on so many ranks: what `parity` compares and a plan proposes."""

    def check(self, ranks: int) -> str | None:
        """Why it cannot run on so many ranks, for the plan; None: it can."""
        return None

    def refusals(self, recipe: "Recipe", heads: int) -> list[tuple[str, str]]:
        """Keys of a recipe that it cannot do, each with why and what else. `heads`: of the model's attention."""
        return []

    def axes(self, ranks: int) -> dict[str, int]:
        """The mesh of ranks by the names of its axes, the outermost first: `replica`, `shard`, `tensor`."""
        return {}

    @abstractmethod
    def memory_share(self, shape: "Architecture", ranks: int) -> MemoryShare:
        """What a device holds of a model of this shape."""

    def load(self, device: str) -> None:
        """Import what it needs beyond torch, for a kind of device."""

    @abstractmethod
    def wrap(self, unwrapped: UnwrappedModel) -> Engine:
        """The engine of a model that is on its device already."""
