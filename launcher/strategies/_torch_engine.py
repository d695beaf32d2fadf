"""Engines with torch parameters and a torch optimiser."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from launcher.strategies import Engine


class TorchEngine(Engine):
    """Engine with a torch optimiser. In this base class, each rank holds the whole model and the same gradients."""

    def __init__(self, module: torch.nn.Module, unwrapped: torch.nn.Module, optimizer: torch.optim.Optimizer):
        self.module, self.unwrapped, self._optimizer = module, unwrapped, optimizer

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[torch.nn.Module]:
        yield self.module

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def norm(self) -> float:
        return float(torch.nn.utils.get_total_norm(self._gradients()))

    def nonfinite(self) -> dict[str, bool]:
        return {
            name: p.grad is not None and not bool(torch.isfinite(local(p.grad)).all())
            for name, p in self.unwrapped.named_parameters()
            if p.requires_grad
        }

    def update(self, lr: float, factor: float) -> None:
        if factor != 1.0:
            torch._foreach_mul_(self._gradients(), factor)
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        self._optimizer.step()
        self.clear()

    def clear(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, torch.Tensor]:
        self._prime()
        state = {f"model.{name}": p.detach() for name, p in self.unwrapped.named_parameters()}
        kept = self.unwrapped.state_dict().keys()
        state |= {f"model.{name}": b for name, b in self.unwrapped.named_buffers() if name in kept}
        for name, parameter in self.unwrapped.named_parameters():
            for moment, value in self._optimizer.state.get(parameter, {}).items():
                state[f"optimizer.{name}.{moment}"] = value
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Do nothing, because the tensors of `state_dict` are those of the model and the optimiser."""

    def _gradients(self) -> list[torch.Tensor]:
        """Return this rank's parts of the gradients."""
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        return [local(p.grad) for p in parameters if p.grad is not None]

    def _prime(self) -> None:
        """Create the optimiser's state by a step with zero gradients and a zero learning rate, which changes no weight.
        The state is set to zero afterwards, because L2 weight decay adds to it."""
        groups = self._optimizer.param_groups
        missing = [p for g in groups for p in g["params"] if p not in self._optimizer.state]
        if not missing:
            return
        rates, held = [group["lr"] for group in groups], [p.grad for p in missing]
        for group in groups:
            group["lr"] = 0.0
        for parameter in missing:
            parameter.grad = torch.zeros_like(parameter)
        self._optimizer.step()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        for parameter, gradient in zip(missing, held, strict=True):
            for moment in self._optimizer.state.get(parameter, {}).values():
                moment.zero_()
            parameter.grad = gradient  # keep DDP's view of its bucket: another tensor would be rounded differently


class ReplicatedEngine(TorchEngine):
    """Engine of DistributedDataParallel. DDP orders its buckets by the first backward, and rebuilds them in the second
    forward."""

    rehearsals = 2

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[torch.nn.Module]:
        if last:
            yield self.module
        else:
            with self.module.no_sync():
                yield self.module

    def clear(self) -> None:
        """Set the gradients in DDP's buckets to zero. Otherwise the gradients of all micro-batches but the last would
        be new tensors in addition to the buckets."""
        self._optimizer.zero_grad(set_to_none=False)


def in_bf16(state: object, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Return the result of torch's hook bf16_compress_hook. DDP on gloo refuses the hook itself, by its name, although
    gloo can reduce bf16."""
    return bf16_compress_hook(state, bucket)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a tensor: its shard of a DTensor, otherwise the whole tensor."""
    return tensor.to_local() if isinstance(tensor, torch.distributed.tensor.DTensor) else tensor
