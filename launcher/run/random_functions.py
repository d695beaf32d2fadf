"""The functions of torch by which models draw random numbers, each computed from draws that are handed in.

Whoever calls `F.dropout`, `torch.rand` and their like inside `Interception` gets the draws of its `Draws` object; every
other function runs as it is. A function that is given a generator of its own keeps it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from launcher.contract.dropout import kept


class Draws(Protocol):
    def keep(self, shape: Sequence[int], rate: float, device: torch.device) -> torch.Tensor:
        """Whether each value is kept under dropout of this rate, bool."""

    def uniform(self, shape: Sequence[int], device: torch.device) -> torch.Tensor:
        """Numbers in (0, 1), fp32."""


class Interception(TorchFunctionMode):
    """Inside it random functions take their numbers from `draws`. torch leaves a mode while it is handling a call, so
    that the functions below call torch's own."""

    def __init__(self, draws: Draws):
        super().__init__()
        self.draws = draws

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        replacement = REPLACEMENTS.get(func)
        if replacement is None or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        return replacement(self.draws, *args, **kwargs)


def dropout(
    draws: Draws, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    return _dropped(draws, input, input.shape, p, training, inplace)


def feature_dropout(
    draws: Draws, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    """Whole channels of a batch (samples, channels, ...)."""
    shape = (*input.shape[:2], *[1] * (input.ndim - 2))
    return _dropped(draws, input, shape, p, training, inplace)


def attention(
    draws: Draws,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Scaled dot-product attention: torch's fused kernels without dropout, else written out, with the softmax in fp32
    where products are in half precision."""
    if not dropout_p:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if enable_gqa:
        key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    elif attn_mask is not None:
        scores = scores + attn_mask
    shares = torch.softmax(scores, -1)
    there = draws.keep(shares.shape, dropout_p, shares.device)
    return torch.matmul((shares * there).to(value.dtype), value) * (1 / kept(dropout_p))


def rand(draws: Draws, *size: Any, **given: Any) -> torch.Tensor:
    shape = _size(size, given)
    made = draws.uniform(shape, _device(given)).to(given.get("dtype") or torch.get_default_dtype())
    return made.requires_grad_(bool(given.get("requires_grad")))


def randn(draws: Draws, *size: Any, **given: Any) -> torch.Tensor:
    made = _normal(draws, _size(size, given), _device(given)).to(given.get("dtype") or torch.get_default_dtype())
    return made.requires_grad_(bool(given.get("requires_grad")))


def rand_like(draws: Draws, input: torch.Tensor, **given: Any) -> torch.Tensor:
    return draws.uniform(input.shape, input.device).to(given.get("dtype") or input.dtype)


def randn_like(draws: Draws, input: torch.Tensor, **given: Any) -> torch.Tensor:
    return _normal(draws, input.shape, input.device).to(given.get("dtype") or input.dtype)


def bernoulli(draws: Draws, input: torch.Tensor, p: float | None = None, **given: Any) -> torch.Tensor:
    share = input if p is None else p
    return (draws.uniform(input.shape, input.device) < share).to(input.dtype)


def bernoulli_(draws: Draws, self: torch.Tensor, p: torch.Tensor | float = 0.5, **given: Any) -> torch.Tensor:
    return self.copy_(draws.uniform(self.shape, self.device) < p)


def uniform_(draws: Draws, self: torch.Tensor, begin: float = 0.0, end: float = 1.0, **given: Any) -> torch.Tensor:
    low, high = given.get("from", begin), given.get("to", end)
    return self.copy_(draws.uniform(self.shape, self.device) * (high - low) + low)


def normal_(draws: Draws, self: torch.Tensor, mean: float = 0.0, std: float = 1.0, **given: Any) -> torch.Tensor:
    return self.copy_(_normal(draws, self.shape, self.device) * std + mean)


def exponential_(draws: Draws, self: torch.Tensor, lambd: float = 1.0, **given: Any) -> torch.Tensor:
    return self.copy_(-draws.uniform(self.shape, self.device).log() / lambd)


def gumbel_softmax(
    draws: Draws, logits: torch.Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> torch.Tensor:
    """Jang et al., 2017; `hard`: one of the classes, with the gradient of their shares."""
    noise = -(-draws.uniform(logits.shape, logits.device).log()).log()
    shares = ((logits + noise.to(logits.dtype)) / tau).softmax(dim)
    if not hard:
        return shares
    one = torch.zeros_like(logits).scatter_(dim, shares.max(dim, keepdim=True)[1], 1.0)
    return one - shares.detach() + shares


def _dropped(
    draws: Draws, input: torch.Tensor, shape: Sequence[int], rate: float, training: bool, inplace: bool
) -> torch.Tensor:
    if not training or not rate:
        return input
    there = draws.keep(shape, rate, input.device)
    if inplace:
        return input.mul_(there).mul_(1 / kept(rate))
    return input * there * (1 / kept(rate))


def _normal(draws: Draws, shape: Sequence[int], device: torch.device) -> torch.Tensor:
    return math.sqrt(2) * torch.erfinv(2 * draws.uniform(shape, device) - 1)


def _size(size: tuple[Any, ...], given: dict[str, Any]) -> tuple[int, ...]:
    found = given.get("size", size)
    return tuple(found[0]) if len(found) == 1 and not isinstance(found[0], int) else tuple(found)


def _device(given: dict[str, Any]) -> torch.device:
    return torch.device(given.get("device") or torch.get_default_device())


REPLACEMENTS: dict[Any, Callable[..., torch.Tensor]] = {
    F.dropout: dropout,
    torch.dropout: dropout,
    F.dropout1d: feature_dropout,
    F.dropout2d: feature_dropout,
    F.dropout3d: feature_dropout,
    F.scaled_dot_product_attention: attention,
    F.gumbel_softmax: gumbel_softmax,
    torch.rand: rand,
    torch.randn: randn,
    torch.rand_like: rand_like,
    torch.randn_like: randn_like,
    torch.bernoulli: bernoulli,
    torch.Tensor.bernoulli: bernoulli,
    torch.Tensor.bernoulli_: bernoulli_,
    torch.Tensor.uniform_: uniform_,
    torch.Tensor.normal_: normal_,
    torch.Tensor.exponential_: exponential_,
}
"""What draws, and what computes it from given draws instead."""
