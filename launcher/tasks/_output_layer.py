"""Replacement of the last linear layer of a language model by one that returns losses instead of logits.

The layer is found by a run of the model, and tested without dropout and in training. The replacement runs inside the
model's own forward. So a strategy may gather its weight, and a weight that is tied gets the gradients of both uses, as
before.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal, Protocol

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from launcher.tasks import IGNORE, Batch, _linear_cross_entropy, _model_probes

_ROWS, _CLASSES = 8, 4096
"""Maximum number of rows and classes whose gradients are compared."""


class LogitsTask(Protocol):
    """A task that computes logits."""

    def logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return logits of shape (n, classes) (see launcher.tasks.Task.logits)."""


class OutputLayer:
    """A linear layer that can return losses. Outside of the contexts below it is as before."""

    def __init__(self, layer: nn.Linear):
        self._layer, self._plain, self._before = layer, layer.forward, vars(layer).get("forward")
        self._returns: Literal["logits", "sum", "losses"] = "logits"
        self._labels: torch.Tensor | None = None
        layer.forward = self._forward

    def remove(self) -> None:
        del self._layer.forward
        if self._before is not None:
            self._layer.forward = self._before

    @contextmanager
    def summing(self, labels: torch.Tensor) -> Iterator[None]:
        """Let the layer return the summed loss, shape (1, ..., 1). labels: shape (n,), for all rows of the input."""
        with self._returning("sum", labels):
            yield

    @contextmanager
    def scoring(self, labels: torch.Tensor) -> Iterator[None]:
        """Let the layer return the loss of each row and whether its label has the largest logit, shape (..., 2),
        without gradients. labels: as for `summing`."""
        with self._returning("losses", labels):
            yield

    @contextmanager
    def _returning(self, what: Literal["sum", "losses"], labels: torch.Tensor) -> Iterator[None]:
        self._returns, self._labels = what, labels
        try:
            yield
        finally:
            self._returns, self._labels = "logits", None

    def _forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self._labels is None:
            return self._plain(inputs)
        rows, weight, bias = inputs.flatten(0, -2), self._layer.weight, self._layer.bias
        if self._returns == "sum":
            loss = _linear_cross_entropy.summed(rows, weight, bias, self._labels)
            return loss.view([1] * inputs.dim())
        return _linear_cross_entropy.by_label(rows, weight, bias, self._labels).view(*inputs.shape[:-1], 2)


def attach(task: LogitsTask, model: nn.Module, batch: Batch) -> OutputLayer | None:
    """Replace the last linear layer of the model. Returns None, and replaces nothing, if the model's logits are not the
    output of one, or if losses or gradients would change, without dropout or in training. The task computes its logits
    with the whole model."""
    training = model.training
    model.eval()
    try:
        return _attach(task, model, batch)
    except (RuntimeError, IndexError, TypeError, ValueError, AttributeError, NotImplementedError):
        return None
    finally:
        model.train(training)


def _attach(task: LogitsTask, model: nn.Module, batch: Batch) -> OutputLayer | None:
    with _Calls(model) as calls, torch.no_grad():
        logits = task.logits(model, batch)
        if calls.last is None or logits.dim() != 2 or not _same(calls.output.flatten(0, -2), logits):
            return None
        labels = torch.arange(len(logits), device=logits.device) % logits.shape[1]
        labels[0] = IGNORE if len(labels) > 1 else 0
        expected = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        del logits
        inputs, layer = calls.input.flatten(0, -2)[:_ROWS], OutputLayer(calls.last)
        try:
            with layer.summing(labels):
                found = task.logits(model, batch)
            exact = _shares_storage(found, calls.output) and _same(found.reshape(()), expected)
            exact = exact and _exact_gradients(calls.last, inputs, labels[:_ROWS])
            exact = exact and _trains(task, model, batch, layer, calls, labels)
        except BaseException:
            layer.remove()
            raise
    if not exact:
        layer.remove()
        return None
    return layer


class _Calls:
    """The last call of a linear layer in a model. `last`: the layer; `input`, `output`: of the call."""

    def __init__(self, model: nn.Module):
        self._model, self._hooks = model, ExitStack()
        self.last: nn.Linear | None = None
        self.input = self.output = torch.empty(0)

    def __enter__(self) -> "_Calls":
        for module in self._model.modules():
            if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
                self._hooks.callback(module.register_forward_hook(self._note).remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()

    def _note(self, module: nn.Linear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.last, self.input, self.output = module, inputs[0], output


def _trains(
    task: LogitsTask, model: nn.Module, batch: Batch, layer: OutputLayer, calls: _Calls, labels: torch.Tensor
) -> bool:
    """Return whether the model returns the summed loss of the layer's inputs in training too, as dropout of the logits
    would prevent. Raises RuntimeError if the backward fails, as where the model computes its head once more there."""
    model.train()
    with _unchanged(model, labels.device):
        with torch.enable_grad(), layer.summing(labels):
            found = task.logits(model, batch)
        assert calls.last is not None
        rows, loss = calls.input.flatten(0, -2), found.detach().reshape(())
        own = _linear_cross_entropy.summed(rows, calls.last.weight, calls.last.bias, labels)
        exact = _shares_storage(found, calls.output) and _same(loss, own)
        if exact and found.requires_grad:
            # not autograd.grad, which refuses layers that are checkpointed with reentrance
            found.backward(torch.ones_like(found))
    return exact


@contextmanager
def _unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore gradients and buffers of the model and torch's random generators at the end of the context."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    for parameter, _ in gradients:
        parameter.grad = None
    with torch.random.fork_rng([] if device.type == "cpu" else [device.index], device_type=device.type):
        try:
            yield
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


def _exact_gradients(layer: nn.Linear, inputs: torch.Tensor, labels: torch.Tensor) -> bool:
    """Return whether the gradients of the summed loss are those of the plain computation, for inputs of the layer and
    its first classes, among which are the labels."""
    of_classes = [layer.weight[:_CLASSES]] + ([] if layer.bias is None else [layer.bias[:_CLASSES]])
    tensors = [inputs, *of_classes]
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    bias = leaves[2] if len(leaves) > 2 else None
    with torch.enable_grad():
        logits = nn.functional.linear(leaves[0], leaves[1], bias).to(_full(leaves[1]))
        plain = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        losses = plain, _linear_cross_entropy.summed(leaves[0], leaves[1], bias, labels)
        expected, found = (torch.autograd.grad(loss, leaves) for loss in losses)
    return all(_same(one, like) for one, like in zip(found, expected, strict=True))


def _full(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether tensors have the same shape, and values that differ by no more than rounding."""
    if one.shape != other.shape:
        return False
    off, largest = _model_probes.rounding(one.device, 1e-4), other.abs().max().clamp(min=1e-30)
    return bool(torch.allclose(one.to(other.dtype) / largest, other / largest, rtol=off, atol=off))


def _shares_storage(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether a tensor is another one, or a view of it. So nothing was computed in between, which might be the
    identity only for now, such as a factor that is still 1."""
    return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)
