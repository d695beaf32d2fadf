"""Several torch optimisers behind the interface of one."""

from collections.abc import Callable

import torch


class CombinedOptimizer(torch.optim.Optimizer):  # type: ignore[misc]
    """Several optimisers with separate parameters, but with one list of groups and one state."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        for part in parts:
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> None:
        for part in self._parts:
            part.step()
