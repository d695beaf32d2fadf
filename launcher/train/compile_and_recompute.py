"""Compilation of the repeated layers of a model, and recomputation of their activations in the backward.

Both replace only the `forward` of a layer. So parameter names do not change, and the hooks of a strategy stay outside.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from launcher.config.recipe import Train
from launcher.train.sample_randomness import ModelRandomness


def apply(layers: Iterable[nn.Module], train: Train, randomness: ModelRandomness) -> None:
    """Compile each layer, and checkpoint the activations of every n-th layer, as the recipe requires. Shapes are
    compiled as variables, because lengths vary between micro-batches."""
    every = train.checkpointed_every
    for number, layer in enumerate(layers):
        if train.compile:
            layer.forward = torch.compile(layer.forward, dynamic=True)
        if every and number % every == 0:
            layer.forward = partial(  # Chen et al., 2016
                checkpoint,
                layer.forward,
                use_reentrant=False,
                context_fn=randomness.recomputation,
            )
