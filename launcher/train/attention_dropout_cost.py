"""Measure the cost of attention dropout on the training device.

The contract's dropout cannot use torch's fused attention kernels, because these only support their own dropout. Without
dropout, attention is as in training: a fused kernel, or on a CPU in bf16 in blocks.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

from launcher.plan.model_spec import attention_dropout
from launcher.tasks import _padded_attention
from launcher.tasks._sequences import Sequences
from launcher.train import counter_dropout, random_interception
from launcher.train.precision import COMPUTED, STORED

_REPEATS, _SHORT, _TOKENS = 3, 64, 512
"""Timed repetitions; minimum length of samples to measure (for shorter ones attention is cheap); maximum tokens."""
_WORTH_A_NOTE = 0.05


def note(model: torch.nn.Module, samples: int, length: int, precision: str, device: torch.device) -> list[str]:
    """Return a note for the user if attention dropout is expensive, else an empty list. `samples`, `length`: of a
    micro-batch of the longest samples."""
    config = getattr(model, "config", None)
    rates, fused = attention_dropout(config), getattr(config, "_attn_implementation", None) == "sdpa"
    if length < _SHORT or not rates or not fused:
        return []
    share = cost(config, max(rates.values()), max(1, min(samples, _TOKENS // length)), length, precision, device)
    if share < _WORTH_A_NOTE:
        return []
    key, rate = next(iter(rates.items()))
    return [
        f"{key} {rate:g} takes about {share:.0%} of a layer's time here (model.attention_dropout=0 does without it)"
    ]


def cost(config: object, rate: float, samples: int, length: int, precision: str, device: torch.device) -> float:
    """Return the extra time of attention with dropout over attention without, as a fraction of a layer's time.

    The times are those of the forward and the backward. Returns 0 if the configuration has no known widths.
    """
    hidden, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    if not (isinstance(hidden, int) and isinstance(heads, int)):
        return 0.0
    options: dict[str, object] = {"dtype": COMPUTED.get(precision, STORED[precision]), "device": device}
    inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    tokens, up, down = (
        torch.ones(shape, **options) for shape in ((samples * length, hidden), (hidden, 4 * hidden), (hidden, inner))
    )
    states = torch.ones((samples, heads, length, hidden // heads), **options).requires_grad_()
    up, down = up.requires_grad_(), down.requires_grad_()
    linear = _seconds(lambda: (tokens @ up).sum() + ((tokens @ down) @ down.T).sum(), device)
    module = torch.nn.Identity()
    fused = _seconds(
        lambda: _padded_attention.forward(module, states, states, states, None, is_causal=False)[0].sum(), device
    )
    draws = _ZeroKeyDraws()
    written = _seconds(
        lambda: random_interception.attention(draws, states, states, states, dropout_p=rate).sum(), device
    )
    return max(0.0, written - fused) / (linear + written)


class _ZeroKeyDraws:
    """Source of dropout masks for timing. Every sample has key 0, which takes as long as real keys."""

    def keep(self, shape: Sequence[int], rate: float, device: torch.device) -> torch.Tensor:
        keys = torch.zeros(shape[0], dtype=torch.int64, device=device)
        axes = tuple(counter_dropout.Axis(False, size) for size in shape[1:])
        return counter_dropout.keep_mask(keys, keys[0], 0, axes, None, rate)

    def uniform(self, shape: Sequence[int], device: torch.device) -> torch.Tensor:
        raise NotImplementedError

    def keep_by_run(self, sequences: Sequences, heads: int, rate: float, device: torch.device) -> list[torch.Tensor]:
        raise NotImplementedError


def _seconds(forward: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Return the median seconds of a forward and its backward, after one warm-up."""
    taken = list[float]()
    for _ in range(_REPEATS + 1):
        begin = time.perf_counter()
        forward().backward()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        taken.append(time.perf_counter() - begin)
    return median(taken[1:])
