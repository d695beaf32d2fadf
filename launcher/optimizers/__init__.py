"""Optimisers. A kind is one module here with a `Config` (a subclass of `launcher.config.types.OptimizerConfig`) and a
class `Optimizer` that extends the one below; the file is the registration. Import torch inside functions: a plan reads
every Config on a login node.

The training loop clips gradients and applies the loss scale and the schedule, alike for all kinds. The engine sets `lr`
of each parameter group before a step. A checkpoint holds what the torch optimiser keeps in `state[parameter]`, by name:
tensors of the shape of the parameter, or scalars.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypedDict, TypeVar

from launcher.config.types import OptimizerConfig

if TYPE_CHECKING:
    import torch

C_co = TypeVar("C_co", bound=OptimizerConfig, covariant=True)


class ParameterGroup(TypedDict):
    """Parameters that are updated alike. `scale`: their learning rate over that of the run; `separate`: they are among
    those of `Optimizer.separate`."""

    params: "list[torch.Tensor]"
    weight_decay: float
    scale: float
    separate: bool


class Optimizer(ABC, Generic[C_co]):
    """Builds a torch optimiser. Base class of the optimisers; each is built from the Config of its kind."""

    def __init__(self, config: C_co) -> None:
        self.config = config

    @abstractmethod
    def build(self, groups: list[ParameterGroup]) -> "torch.optim.Optimizer":
        """The torch optimiser of these parameter groups."""

    def separate(self, model: "torch.nn.Module") -> "set[torch.Tensor]":
        """Parameters that need groups of their own."""
        return set()

    def for_model(self, model: "torch.nn.Module") -> "torch.optim.Optimizer":
        """The torch optimiser of the parameters of a model that train. Biases and norms do not decay."""
        from launcher.optimizers._parameter_groups import parameter_groups

        return self.build(parameter_groups(model, self.config, self.separate(model)))

    def state_names(self) -> list[str]:
        """The names of the state that is kept for a matrix, as the first step of a tiny model creates it."""
        import torch

        probe = torch.nn.Linear(1, 1, bias=False)
        optimizer = self.for_model(probe)
        probe.weight.grad = torch.zeros_like(probe.weight)
        optimizer.step()
        return list(optimizer.state[probe.weight])
