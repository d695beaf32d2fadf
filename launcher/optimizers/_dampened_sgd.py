"""SGD with dampening. The first momentum may be loaded, or created before the first step."""

from collections.abc import Callable

import torch


class DampenedSGD(torch.optim.SGD):  # type: ignore[misc]
    """SGD that counts the steps of each parameter.

    If there is no momentum yet, torch sets it to the first gradient, without dampening. Here a state that is requested
    before the first step has a momentum of zeros. So the first gradient is added without dampening, which gives the
    same.
    """

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        for group in self.param_groups:
            states = [self.state[p] for p in group["params"] if p.grad is not None]
            for state in states:
                state.setdefault("step", torch.zeros(()))
            started = any(state["step"] for state in states)
            group["dampening"] = self.defaults["dampening"] if started else 0.0
            for state in states:
                if started and not state["step"]:  # this parameter began to train later than others in its group
                    state["momentum_buffer"] = None
                state["step"] += 1
        loss: float | None = super().step(closure)
        return loss
