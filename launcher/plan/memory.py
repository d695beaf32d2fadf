"""Estimates of memory and checkpoint size, in bytes. Simple on purpose; a plan calls them estimates."""

from launcher.config.recipe import Recipe
from launcher.plan.architecture import Architecture

_WIDTH = {"fp32": 4, "bf16": 4, "fp64": 8}  # of a stored parameter: bf16 is autocast, its weights stay fp32
_ACTIVATION = {"fp32": 4, "bf16": 2, "fp64": 8}


def state(recipe: Recipe, architecture: Architecture) -> dict[str, int]:
    """Bytes of weights, gradients and the two moments of AdamW on a device that holds them all."""
    size = architecture.parameters * _WIDTH[recipe.train.precision]
    return {"weights": size, "gradients": size, "optimizer": 2 * size}


def activations(recipe: Recipe, architecture: Architecture, samples: int) -> int:
    """Bytes kept for the backward of a micro-batch of `samples` of full length.

    Per layer and token 17 hidden widths, and 2.5 attention maps of heads x length where attention is not fused; counted
    as fused here (Korthikanti et al., 2022, give 34 s b h + 5 a s^2 b bytes in 16 bits). Logits are kept for the masked
    positions alone, which is small beside it.
    """
    length = recipe.data.max_length
    return 17 * architecture.layers * samples * length * architecture.hidden * _ACTIVATION[recipe.train.precision]


def checkpoint(recipe: Recipe, architecture: Architecture) -> int:
    """Bytes of a checkpoint: weights, buffers and both moments."""
    return (3 * architecture.parameters + architecture.buffers) * _WIDTH[recipe.train.precision]
