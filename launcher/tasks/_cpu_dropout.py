"""Dropout with a given mask on a CPU, as an autograd function.

Single operations of torch multiply values by a mask of another type, which converts both, and keep the results for the
backward. Here the backward keeps the mask only.
"""

import torch
from torch import nn
from torch.autograd.function import FunctionCtx

_WORDS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
"""Integers of the size of each precision."""


class _Context(FunctionCtx):  # type: ignore[misc]
    saved_tensors: tuple[torch.Tensor, ...]
    scale: float


def applies(*tensors: torch.Tensor) -> bool:
    """Return whether the functions of this module compute the tensors: values of one precision in a CPU's memory, and
    not while torch compiles code, traces tensors without values, or transforms functions (torch.func)."""
    transforms = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
    return not transforms and all(
        type(one) in (torch.Tensor, nn.Parameter)
        and one.device.type == "cpu"
        and one.dtype in _WORDS
        and one.dtype == tensors[0].dtype
        for one in tensors
    )


def zero_(values: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Set the values outside of a bool mask, which is broadcast, to zero in place. The bits are multiplied as integers,
    which takes a tenth of the time of an operation of floats and booleans."""
    values.view(_WORDS[values.dtype]).mul_(keep.view(torch.int8))
    return values


class Dropout(torch.autograd.Function):  # type: ignore[misc]
    """Values times `scale` where a mask, which is broadcast, keeps them; else 0."""

    @staticmethod
    def forward(ctx: _Context, values: torch.Tensor, keep: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return zero_(values * scale, keep)

    @staticmethod
    def backward(ctx: _Context, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return Dropout.apply(gradient, *ctx.saved_tensors, ctx.scale), None, None
