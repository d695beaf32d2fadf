"""How a model is spread over ranks. A kind is one module here with a `Config` (a subclass of
`launcher.config.types.Plugin`) and the function `wrap` of `Strategy` below, and optionally `check`; the file is the
registration. Import torch inside functions: a plan reads every Config on a login node.

The seam is the Engine: whether a micro-batch is the last of its step must be known before its forward (DDP decides
there whether to reduce), so a micro-batch runs inside `accumulating`.
"""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from launcher.run.process import Process


class Engine(Protocol):
    module: "torch.nn.Module"
    """What to call; evaluation uses it too."""

    def accumulating(self, last: bool) -> "AbstractContextManager[torch.nn.Module]":
        """A micro-batch: its forward and `backward` belong inside. Gradients are averaged over ranks at the last."""

    def backward(self, loss: "torch.Tensor") -> None:
        """Add the gradients of a loss."""

    def step(self, lr: float) -> float:
        """Clip, update and clear the gradients. Returns the global gradient norm before clipping."""

    def clear(self) -> None:
        """Drop the gradients."""

    def state_dict(self) -> "dict[str, torch.Tensor]":
        """`model.<name>` and `optimizer.<name>.<moment>`: canonical names whatever wraps the model. The tensors are the
        live ones: loading writes into them, then calls `load_state_dict`."""

    def load_state_dict(self, state: "dict[str, torch.Tensor]") -> None:
        """Take over what has been loaded into the tensors of `state_dict`."""


class Strategy(Protocol):
    def check(self, config: Any, ranks: int) -> str | None:
        """What is wrong with this strategy on so many ranks, for the plan."""

    def wrap(
        self,
        config: Any,
        model: "torch.nn.Module",
        optimizer: "torch.optim.Optimizer",
        process: "Process",
        clip: float | None,
    ) -> Engine:
        """The engine of a model that is on its device already."""
