"""torch's random functions, computed from given draws.

Inside `Interception`, functions such as `F.dropout` and `torch.rand` use its `Draws`. Other functions do not change,
and neither do calls with a generator or an output tensor.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from launcher.contract.dropout import kept
from launcher.tasks import _cpu_dropout, _sequence_attention
from launcher.tasks._sequences import Sequences
from launcher.train import masked_attention

Options = dict[str, object]
"""Keyword arguments of a torch function, such as dtype and device."""


class Draws(Protocol):
    """Source of random numbers."""

    def keep(self, shape: Sequence[int], rate: float, device: torch.device) -> torch.Tensor:
        """Return a dropout mask of this rate: True for kept values."""

    def uniform(self, shape: Sequence[int], device: torch.device) -> torch.Tensor:
        """Return uniform numbers in (0, 1), fp32."""

    def keep_by_run(self, sequences: Sequences, heads: int, rate: float, device: torch.device) -> list[torch.Tensor]:
        """Return the dropout masks of the attention in a row of sequences, for each run of shape (sequences, heads,
        length, length)."""


class Interception(TorchFunctionMode):  # type: ignore[misc]
    """Mode in which random functions take their numbers from `draws`. torch disables a mode while it handles a call, so
    that the functions below can call torch's own functions."""

    def __init__(self, draws: Draws):
        super().__init__()
        self.draws = draws

    def __torch_function__(
        self,
        func: Callable[..., torch.Tensor],
        types: object,
        args: Sequence[object] = (),
        kwargs: Options | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func in COMPOSED:
            with self:
                return _undispatched(func)(*args, **kwargs)
        replacement = REPLACEMENTS.get(func)
        if replacement is None or kwargs.get("generator") is not None or kwargs.get("out") is not None:
            return func(*args, **kwargs)
        return replacement(self.draws, *args, **kwargs)


def dropout(
    draws: Draws, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    return _dropped(draws, input, input.shape, p, training, inplace)


def torch_dropout(draws: Draws, input: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    return _dropped(draws, input, input.shape, p, train, inplace=False)


def channel_dropout(dimensions: int) -> Callable[..., torch.Tensor]:
    """Return a function for dropout of whole channels, for a batch (samples, channels, ...) or one sample.
    `dimensions`: of a channel."""

    def dropout(
        draws: Draws, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        shape = (*input.shape[: input.ndim - dimensions], *[1] * dimensions)
        return _dropped(draws, input, shape, p, training, inplace)

    return dropout


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
    """Compute scaled dot-product attention: by torch's fused kernels if there is no dropout.
    A position whose mask excludes all positions gets zeros, as in torch."""
    if not dropout_p or (is_causal and attn_mask is not None):  # torch raises an error for both together
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if enable_gqa:
        key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
    batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    keep_mask = draws.keep((*batch, query.shape[-2], key.shape[-2]), dropout_p, query.device)
    return masked_attention.attention(query, key, value, attn_mask, dropout_p, is_causal, scale, keep_mask)


def sequence_attention(
    draws: Draws,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row: _sequence_attention.Row,
    dropout: float,
    window: _sequence_attention.Window,
    scale: float | None,
) -> torch.Tensor:
    """Compute `launcher.tasks._sequence_attention.by_length` with given draws."""
    masks = draws.keep_by_run(row.sequences, query.shape[1], dropout, query.device)
    return masked_attention.in_row(query, key, value, row, dropout, window, scale, masks)


def rand(draws: Draws, *size: object, **options: object) -> torch.Tensor:
    return _uniform(draws, _size(size, options), options, torch.get_default_dtype(), torch.get_default_device())


def randn(draws: Draws, *size: object, **options: object) -> torch.Tensor:
    return _normal(draws, _size(size, options), options, torch.get_default_dtype(), torch.get_default_device())


def rand_like(draws: Draws, input: torch.Tensor, **options: object) -> torch.Tensor:
    return _uniform(draws, input.shape, options, input.dtype, input.device)


def randn_like(draws: Draws, input: torch.Tensor, **options: object) -> torch.Tensor:
    return _normal(draws, input.shape, options, input.dtype, input.device)


def bernoulli(draws: Draws, input: torch.Tensor, p: float | None = None, **options: object) -> torch.Tensor:
    share = input if p is None else p
    return (draws.uniform(input.shape, input.device) < share).to(input.dtype)


def bernoulli_(draws: Draws, self: torch.Tensor, p: torch.Tensor | float = 0.5, **options: object) -> torch.Tensor:
    return self.copy_(draws.uniform(self.shape, self.device) < p)


def uniform_(draws: Draws, self: torch.Tensor, begin: float = 0.0, end: float = 1.0, **options: float) -> torch.Tensor:
    low, high = options.get("from", begin), options.get("to", end)
    self.copy_(draws.uniform(self.shape, self.device) * (high - low) + low)
    return self.masked_fill_(self >= high, low)  # rounding may have moved values to the upper limit


def normal_(draws: Draws, self: torch.Tensor, mean: float = 0.0, std: float = 1.0, **options: object) -> torch.Tensor:
    return self.copy_(_gaussian(draws.uniform(self.shape, self.device)) * std + mean)


def exponential_(draws: Draws, self: torch.Tensor, lambd: float = 1.0, **options: object) -> torch.Tensor:
    return self.copy_(-draws.uniform(self.shape, self.device).log() / lambd)


def _dropped(
    draws: Draws, input: torch.Tensor, shape: Sequence[int], rate: float, training: bool, inplace: bool
) -> torch.Tensor:
    if not training or not rate:
        return input
    keep_mask = draws.keep(shape, rate, input.device)
    if inplace:
        return input.mul_(keep_mask).mul_(1 / kept(rate))
    if _cpu_dropout.applies(input):
        return _cpu_dropout.Dropout.apply(input, keep_mask, 1 / kept(rate))
    return input * keep_mask * (1 / kept(rate))


def _uniform(
    draws: Draws, shape: Sequence[int], options: Options, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    dtype, device = options.get("dtype") or dtype, _device(options, device)
    made = draws.uniform(shape, device).to(dtype).clamp_(max=1 - torch.finfo(dtype).eps / 2)
    return made.requires_grad_(bool(options.get("requires_grad")))


def _normal(
    draws: Draws, shape: Sequence[int], options: Options, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    dtype, device = options.get("dtype") or dtype, _device(options, device)
    made = _gaussian(draws.uniform(shape, device)).to(dtype)
    return made.requires_grad_(bool(options.get("requires_grad")))


def _gaussian(uniform: torch.Tensor) -> torch.Tensor:
    """Transform uniform numbers in (0, 1) to a normal distribution, by the inverse of its distribution function."""
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1)


def _size(size: tuple[object, ...], options: Options) -> tuple[int, ...]:
    sizes: Any = options.get("size", size)
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], list | tuple) else tuple(sizes)


def _device(options: Options, default: torch.device) -> torch.device:
    return default if options.get("device") is None else torch.device(options["device"])


@cache
def _undispatched(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a copy of a Python function of torch without its check for modes. So its body runs inside the mode."""
    nothing = dict.fromkeys(("has_torch_function", "has_torch_function_unary"), lambda *arguments: False)
    body = FunctionType(function.__code__, {**function.__globals__, **nothing}, function.__name__)
    body.__defaults__, body.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return body


COMPOSED = frozenset({F.multi_head_attention_forward, F.gumbel_softmax})
"""Functions whose Python code calls functions of REPLACEMENTS."""

REPLACEMENTS: dict[object, Callable[..., torch.Tensor]] = {
    F.dropout: dropout,
    torch.dropout: torch_dropout,
    F.dropout1d: channel_dropout(1),
    F.dropout2d: channel_dropout(2),
    F.dropout3d: channel_dropout(3),
    F.scaled_dot_product_attention: attention,
    _sequence_attention.by_length: sequence_attention,
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
"""Functions that compute torch's random functions from given draws, by the function of torch."""
