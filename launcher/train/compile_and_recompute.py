"""Compilation of the repeated layers of a model, and recomputation of their activations in the backward.

Both replace only the `forward` of a layer. So parameter names do not change, and the hooks of a strategy stay outside.
"""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from launcher.config.training import Train
from launcher.train.sample_randomness import ModelRandomness

_VARIANTS = 64
"""Maximum number of times that the code of a layer is compiled. torch's 8 are too few for layers of two kinds, each in
training and in evaluation, with one or several rows. Layers of a class share their code."""
_DYNAMO = "torch._dynamo.convert_frame"
"""Logger of torch that reports a layer that is compiled too often."""
_log = logging.getLogger(__name__)


def apply(layers: Iterable[nn.Module], train: Train, randomness: ModelRandomness) -> None:
    """Compile each layer, and checkpoint the activations of every n-th layer, as the recipe requires. Shapes are
    compiled as variables, because lengths vary between micro-batches."""
    every = train.checkpointed_every
    if train.compile:
        torch._dynamo.config.recompile_limit = max(_VARIANTS, torch._dynamo.config.recompile_limit)
        logging.getLogger(_DYNAMO).addFilter(report_limit)
    for number, layer in enumerate(layers):
        if train.compile:
            layer.forward = torch.compile(layer.forward, dynamic=True)
        if every and number % every == 0:
            layer.forward = partial(_recomputed, layer.forward, randomness)


def report_limit(record: logging.LogRecord) -> bool:
    """Replace torch's message about a layer that was compiled too often by one line. Filter of torch's logger; returns
    whether to keep the record."""
    message = record.getMessage()
    if not message.startswith("torch._dynamo hit config."):
        return True
    facts = dict(line.strip().split(": ", 1) for line in message.splitlines() if ": " in line)
    what = f"{facts.get('function', 'a layer')} is not compiled for further shapes, but runs as it is, which is slower"
    _log.warning("train.compile: %s (%s; last: %s)", what, message.splitlines()[0], facts.get("last reason", "unknown"))
    return False


def _recomputed(forward: Callable[..., Any], randomness: ModelRandomness, *args: Any, **kwargs: Any) -> Any:
    """Run a layer and keep only its inputs, from which the backward computes the layer again (Chen et al., 2016).

    torch finds the device whose generator and autocast it restores from positional arguments alone, so that all
    arguments are passed by position.
    """
    names, count = tuple(kwargs), len(args)

    def run(*every: Any) -> Any:
        return forward(*every[:count], **dict(zip(names, every[count:], strict=True)))

    return checkpoint(run, *args, *kwargs.values(), use_reentrant=False, context_fn=randomness.recomputation)
