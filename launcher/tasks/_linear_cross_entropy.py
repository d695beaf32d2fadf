"""Cross entropy of the outputs of a linear layer, without the matrix of all logits.

Logits are computed for a block of rows at a time. A block's probabilities replace its logits in place, and its part of
all gradients follows at once, as in fused kernels on GPUs (Hsu et al., "Liger Kernel", 2024). Products have the type of
autocast, and the softmax is in fp32, or in fp64 for inputs in fp64. So memory holds one block, and the values pass
through the cache a few times. Written with whole matrices (cross_entropy), they pass through memory some ten times.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from launcher.plan import logit_blocks
from launcher.tasks import IGNORE

_FP16_UNIT = 2.0**15
"""Factor of probabilities stored in fp16, whose smallest normal number is larger than most of them."""


@dataclass(frozen=True)
class _Layer:
    """A linear layer in the types of the computation. `inputs`: shape (n, width); `weight`: (classes, width); `bias`:
    (classes,) or None, in full precision; `labels`: (n,), 0 in place of IGNORE; `counted`: 0 for IGNORE, else 1."""

    inputs: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    labels: torch.Tensor
    counted: torch.Tensor

    @classmethod
    def of(
        cls, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
    ) -> "_Layer":
        kind = inputs.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        dtype = weight.dtype if weight.dtype == torch.float64 else dtype  # autocast leaves fp64 as it is
        full = torch.promote_types(dtype, torch.float32)
        counted = labels != IGNORE
        return cls(
            inputs.to(dtype), weight.to(dtype), None if bias is None else bias.to(full), labels * counted,
            counted.to(full),
        )  # fmt: skip

    def blocks(self) -> "Iterator[tuple[slice, torch.Tensor]]":
        """Yield slices of the rows, each with its logits without the bias."""
        size = logit_blocks.rows_of_block(len(self.weight), self.weight.itemsize, self.weight.device.type)
        for rows in _slices(len(self.inputs), size):
            yield rows, torch.mm(self.inputs[rows], self.weight.t())

    def parts(self, logits: torch.Tensor) -> "Iterator[tuple[slice, torch.Tensor]]":
        """Yield slices of the rows of a block, each with its logits in full precision, in memory that the next one
        uses again."""
        kind, classes = logits.device.type, logits.shape[1]
        size = min(len(logits), logit_blocks.rows_of_part(classes, self.counted.itemsize, kind))
        scratch = torch.empty((size, classes), dtype=self.counted.dtype, device=logits.device)
        for rows in _slices(len(logits), size):
            part = scratch[: rows.stop - rows.start].copy_(logits[rows])
            yield rows, part if self.bias is None else part.add_(self.bias)


def by_label(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
) -> torch.Tensor:
    """Return for each row its loss, 0 for IGNORE, and whether the class with the largest logit is its label: shape (n,
    2), without gradients. Arguments: as for `summed`."""
    with torch.no_grad():
        layer = _Layer.of(inputs, weight, bias, labels)
        out = torch.empty((len(inputs), 2), dtype=layer.counted.dtype, device=inputs.device)
        with torch.autocast(inputs.device.type, enabled=False):
            for block, logits in layer.blocks():
                for part, scores in layer.parts(logits):
                    rows = slice(block.start + part.start, block.start + part.stop)
                    out[rows, 1] = (scores.argmax(1) == labels[rows]).to(out.dtype)
                    out[rows, 0] = _softmax_(scores, layer.labels[rows]) * layer.counted[rows]
        return out


def summed(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor) -> torch.Tensor:
    """Return the summed cross entropy of the logits inputs @ weight.T + bias, a scalar in at least fp32.

    inputs: shape (n, width); weight: (classes, width); bias: (classes,); labels: (n,), IGNORE for rows without one.
    """
    if torch.is_grad_enabled():
        loss: torch.Tensor = _SummedCrossEntropy.apply(inputs, weight, bias, labels)
        return loss
    return by_label(inputs, weight, bias, labels)[:, 0].sum()


class _SummedCrossEntropy(torch.autograd.Function):  # type: ignore[misc]
    """Loss and gradients together. The backward multiplies the gradients by that of the loss, so it runs once."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
    ) -> torch.Tensor:
        layer = _Layer.of(inputs, weight, bias, labels)
        gradients = _Gradients(layer, *ctx.needs_input_grad[:3])
        losses = torch.empty_like(layer.counted)
        with torch.autocast(inputs.device.type, enabled=False):
            for block, logits in layer.blocks():
                labels_of_block = layer.labels[block]
                for part, scores in layer.parts(logits):
                    rows = labels_of_block[part]
                    losses[block][part] = _softmax_(scores, rows)
                    scores.scatter_(1, rows[:, None], scores.gather(1, rows[:, None]) - 1)
                    logits[part] = scores if gradients.unit == 1.0 else scores.mul_(gradients.unit)
                gradients.add(block, logits)
        ctx.found, ctx.unit = (gradients.inputs, gradients.weight, gradients.bias), gradients.unit
        ctx.types = inputs.dtype, weight.dtype, weight.dtype
        return (losses * layer.counted).sum()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found, ctx.found = ctx.found, None
        if found is None:
            raise RuntimeError("The gradients of a loss in blocks are for one backward: compute the loss again.")
        factor = gradient / ctx.unit
        scaled = [None if one is None else one.mul_(factor) for one in found]
        return *(one if one is None else one.to(kind) for one, kind in zip(scaled, ctx.types, strict=True)), None


class _Gradients:
    """Gradients of a layer, added up in full precision over blocks of rows. None: not needed.

    `unit`: the factor by which they are too large.
    """

    def __init__(self, layer: _Layer, of_inputs: bool, of_weight: bool, of_bias: bool):
        self._layer = layer
        self._counted = layer.inputs * layer.counted[:, None].to(layer.inputs.dtype)
        full = {"dtype": layer.counted.dtype, "device": layer.inputs.device}
        self.unit = _FP16_UNIT if layer.inputs.dtype == torch.float16 else 1.0
        made = torch.empty if len(layer.inputs) else torch.zeros  # without rows there is no block to write them
        self.inputs = made(layer.inputs.shape, **full) if of_inputs else None
        self.weight = made(layer.weight.shape, **full) if of_weight else None
        self.bias = made(len(layer.weight), **full) if of_bias else None

    def add(self, rows: slice, logits: torch.Tensor) -> None:
        """Add the part of a block. logits: its gradient by the logits, times `unit`, in the type of the products."""
        layer, first = self._layer, rows.start == 0
        counted = layer.counted[rows]
        if self.inputs is not None:
            _product(self.inputs[rows], logits, layer.weight, first=True).mul_(counted[:, None])
        if self.weight is not None:
            _product(self.weight, logits.t(), self._counted[rows], first)
        if self.bias is not None:
            _product(self.bias[None], counted[None].to(logits.dtype), logits, first)


def _product(out: torch.Tensor, one: torch.Tensor, other: torch.Tensor, first: bool) -> torch.Tensor:
    """Add a matrix product to `out`, in full precision. first: `out` has no values yet.

    A product in bf16 is rounded once, as in autocast. In fp16 it might overflow, so that the inputs are converted.
    """
    if out.dtype == one.dtype:
        return torch.addmm(out, one, other, beta=0.0 if first else 1.0, out=out)
    if one.dtype == torch.float16:
        one, other = one.to(out.dtype), other.to(out.dtype)
    product = torch.mm(one, other)
    return out.copy_(product) if first else out.add_(product)


def _softmax_(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Replace logits by probabilities, in place. Returns the negative log likelihood of the labels, shape (n,).

    The largest probability is at least 1 / classes, so that its logarithm is exact; that of a label may be 0.
    """
    largest, of_label = scores.amax(1), scores.gather(1, labels[:, None]).squeeze(1)
    torch.softmax(scores, 1, out=scores)
    return largest - of_label - scores.amax(1).log()


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, count)) for first in range(0, count, size))
