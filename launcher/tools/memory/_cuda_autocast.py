"""The rules of autocast on CUDA, for fake tensors of the CPU.

A build of torch for CPUs cannot run a backward on fake CUDA tensors. On the CPU, autocast leaves normalisation and
softmax in half precision; on CUDA these compute in fp32 and keep fp32 copies for the backward.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

_FP32_INPUTS = frozenset({
    F.layer_norm, torch.layer_norm, torch.native_layer_norm, F.group_norm, torch.group_norm, torch.exp,
    torch.Tensor.exp, torch.log, torch.Tensor.log, torch.pow, torch.Tensor.pow, torch.Tensor.__pow__, torch.norm,
    torch.Tensor.norm, torch.rsqrt, torch.Tensor.rsqrt, F.cosine_similarity, F.mse_loss, F.l1_loss, F.kl_div,
    F.nll_loss, F.softplus,
})  # fmt: skip
_FP32_OUTPUT = frozenset({
    F.softmax, torch.softmax, torch.Tensor.softmax, F.log_softmax, torch.log_softmax, torch.Tensor.log_softmax,
    torch.sum, torch.Tensor.sum, torch.cumsum, torch.Tensor.cumsum, torch.prod, torch.Tensor.prod,
})  # fmt: skip
_HALF = (torch.bfloat16, torch.float16)


class CudaAutocast(TorchFunctionMode):  # type: ignore[misc]
    """Mode in which autocast of the CPU follows CUDA's lists (`autocast_mode.h` of torch)."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = dict(kwargs or {})
        if torch.is_autocast_enabled("cpu"):
            if func in _FP32_INPUTS:
                args, kwargs = tree_map_only(torch.Tensor, _in_fp32, (args, kwargs))
            elif func in _FP32_OUTPUT and kwargs.get("dtype") is None and _is_half(args):
                kwargs["dtype"] = torch.float32
        return func(*args, **kwargs)


def _in_fp32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in _HALF else tensor


def _is_half(args: Sequence[object]) -> bool:
    return bool(args) and isinstance(args[0], torch.Tensor) and args[0].dtype in _HALF
