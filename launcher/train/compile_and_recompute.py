"""What is done to each repeated layer of a model, whatever wraps the model later: compiling, and recomputing in the
backward. Both replace the layer's `forward` alone: names stay the bare model's, and a strategy's hooks stay outside."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from launcher.config.recipe import Train
from launcher.train.sample_randomness import ModelRandomness


def dress(layers: Iterable[nn.Module], train: Train, randomness: ModelRandomness) -> None:
    """Compile each layer and checkpoint the activations of every n-th, as the recipe says. Lengths vary from one
    micro-batch to the next, so that shapes are compiled as variables."""
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
