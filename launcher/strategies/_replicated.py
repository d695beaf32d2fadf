"""The engine of strategies that hold the whole model on each rank."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Replicated:
    """`module` is what is called; `model` the bare one inside, whose names are the canonical ones."""

    def __init__(
        self,
        module: torch.nn.Module,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        clip: float | None,
    ):
        self.module, self._model, self._optimizer, self._clip = module, model, optimizer, clip

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[torch.nn.Module]:
        no_sync = getattr(self.module, "no_sync", None)
        if last or no_sync is None:
            yield self.module
        else:
            with no_sync():
                yield self.module

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self, lr: float) -> float:
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self._clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._clip, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self.clear()
        return float(norm)

    def clear(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, torch.Tensor]:
        self._prime()
        state = {f"model.{name}": p.detach() for name, p in self._model.named_parameters()}
        kept = self._model.state_dict().keys()
        state |= {f"model.{name}": b for name, b in self._model.named_buffers() if name in kept}
        for name, parameter in self._model.named_parameters():
            for moment, value in self._optimizer.state.get(parameter, {}).items():
                state[f"optimizer.{name}.{moment}"] = value
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Nothing is left to do: the tensors of `state_dict` are the live ones."""

    def _prime(self) -> None:
        """Have the optimiser make its moments: a step with a learning rate and gradients of zero changes no weight."""
        groups = self._optimizer.param_groups
        missing = [p for g in groups for p in g["params"] if p not in self._optimizer.state]
        if not missing:
            return
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = 0.0
        for parameter in missing:
            parameter.grad = torch.zeros_like(parameter)
        self._optimizer.step()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        for parameter in missing:
            self._optimizer.state[parameter]["step"].zero_()
        self.clear()
