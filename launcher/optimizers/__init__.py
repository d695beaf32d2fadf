"""Optimisers.

Each kind is one module of this package. It defines a `Config` (a subclass of `launcher.config.types.OptimizerConfig`)
and a class `Optimizer` that extends the class below. There is no other registration. Import torch inside functions,
because a plan imports the module on a login node.

The training loop clips gradients and applies the loss scale and the schedule in the same way for all kinds. The engine
sets `lr` of each parameter group before a step. A checkpoint contains the torch optimiser's `state[parameter]` by name:
tensors of the parameter's shape, or scalars.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypedDict, TypeVar

from launcher.config.types import OptimizerConfig

if TYPE_CHECKING:
    import torch

C_co = TypeVar("C_co", bound=OptimizerConfig, covariant=True)


class ParameterGroup(TypedDict):
    """Parameters that are updated alike. `scale`: factor of the run's learning rate; `separate`: whether they are in
    `Optimizer.separate`."""

    params: "list[torch.Tensor]"
    weight_decay: float
    scale: float
    separate: bool


class Optimizer(ABC, Generic[C_co]):
    """Builder of a torch optimiser. Base class of the optimisers; each is created from the Config of its kind."""

    def __init__(self, config: C_co) -> None:
        self.config = config

    @abstractmethod
    def build(self, groups: list[ParameterGroup]) -> "torch.optim.Optimizer":
        """Return the torch optimiser of these parameter groups."""

    def separate(self, model: "torch.nn.Module") -> "set[torch.Tensor]":
        """Return the parameters that need their own groups; empty by default."""
        return set()

    def for_model(self, model: "torch.nn.Module") -> "torch.optim.Optimizer":
        """Return the torch optimiser of a model's trained parameters. Biases and norms have no weight decay."""
        from launcher.optimizers._parameter_groups import parameter_groups

        return self.build(parameter_groups(model, self.config, self.separate(model)))

    def state_names(self) -> list[str]:
        """Return the names of the state kept for a matrix, such as moments. A step of a tiny model shows them."""
        import torch

        probe = torch.nn.Linear(1, 1, bias=False)
        optimizer = self.for_model(probe)
        probe.weight.grad = torch.zeros_like(probe.weight)
        optimizer.step()
        return list(optimizer.state[probe.weight])
