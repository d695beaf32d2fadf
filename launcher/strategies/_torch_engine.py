"""Engines with torch parameters and a torch optimiser."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from launcher.distributed.sharded_tensors import is_sharded
from launcher.strategies import Engine, Exchange, NonfiniteGradients


class TorchEngine(Engine):
    """Engine with a torch optimiser. In this base class, each rank holds the whole model and the same gradients.

    torch's fused Adam and AdamW scale the gradients and skip a step by numbers on the device, so that the host reads
    nothing (the interface of torch.amp.GradScaler). Other optimisers may count their steps on the host, which must know
    whether there is one: `update` reads the factor. So it does for torch's fused SGD, which after a skipped first step
    would begin with a momentum that nothing has written, and for subclasses, whose `step` may look at gradients.
    """

    exchanges: Exchange = "never"
    casts_once = True

    def __init__(self, module: torch.nn.Module, unwrapped: torch.nn.Module, optimizer: torch.optim.Optimizer):
        self.module, self.unwrapped, self._optimizer = module, unwrapped, optimizer
        names = {p: name for name, p in unwrapped.named_parameters()}
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._names = [names[p] for p in self._parameters]
        self._norms, self._measured = torch.zeros(0), list[str]()
        of_torch = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
        self._on_device = of_torch and getattr(optimizer, "_step_supports_amp_scaling", False)
        self._scales = all(p.dtype == torch.float32 for p in self._parameters)  # the scale of a fused optimiser is fp32

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[torch.nn.Module]:
        yield self.module

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def norm(self) -> torch.Tensor:
        return torch.linalg.vector_norm(self._norms_of_parts())

    def nonfinite(self) -> NonfiniteGradients:
        return NonfiniteGradients(self._measured, ~torch.isfinite(self._norms))

    def update(self, lr: float, factor: torch.Tensor) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        if self._on_device:
            self._step_on_device(factor)
        elif math.isfinite(known := float(factor)):
            if known != 1.0:
                torch._foreach_mul_(self._gradients(), known)
            self._optimizer.step()
        self.clear()

    def _step_on_device(self, factor: torch.Tensor) -> None:
        """Take a step of a fused optimiser, which divides the gradients by a scale, and changes nothing where
        `found_inf` is 1."""
        optimizer, finite = self._optimizer, torch.isfinite(factor)
        optimizer.found_inf = (~finite).float()
        optimizer.grad_scale = factor.reciprocal().float() if self._scales else None
        if not self._scales:
            torch._foreach_mul_(self._gradients(), factor)
        optimizer.step()
        optimizer.found_inf = optimizer.grad_scale = None

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

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _norms_of_parts(self) -> torch.Tensor:
        """Return the norm of this rank's part of each gradient, shape (gradients,); one zero without a gradient. Keep
        them for `nonfinite`."""
        self._measured, parts = self._names, self._gradients()
        if len(parts) < len(self._names):
            self._measured = [n for n, p in zip(self._names, self._parameters, strict=True) if p.grad is not None]
        self._norms = torch.stack(torch._foreach_norm(parts)) if parts else torch.zeros(0)
        return self._norms

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _gradients(self) -> list[torch.Tensor]:
        """Return this rank's parts of the gradients."""
        return [local(p.grad) for p in self._parameters if p.grad is not None]

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

    exchanges: Exchange = "in the last backward"
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
    return tensor.to_local() if is_sharded(tensor) else tensor
