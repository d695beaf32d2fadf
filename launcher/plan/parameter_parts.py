"""The parameters of a model by part, for any architecture: embeddings, repeated layers, head, and the rest."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from launcher.plan.layer_blocks import blocks

if TYPE_CHECKING:
    import torch

_PARTS = ("embeddings", "layers", "decoder layers", "other", "adapter", "head")
_MOST = 6
"""Maximum number of parts of a model that has no encoder."""


def count(model: "torch.nn.Module") -> dict[str, int]:
    """Return the number of parameters by part. Tied parameters count once, at their first place.

    The encoder of a transformers model is its `base_model`. Its embeddings are its tables outside the repeated layers,
    and what else is in a module called embeddings; what is outside the encoder is the head. An encoder-decoder is its
    own `base_model`, and has no head but its output embeddings. The parts of another model are its first modules.
    """
    base = getattr(model, "base_model", None)
    if base is None or not (layers := _ids(blocks(base))):
        return _first_modules(model)
    tables, adapters = _ids(_embeddings(base)), _adapters(model)
    outputs = getattr(model, "get_output_embeddings", None)
    outside = _ids([model]) - _ids([base]) or (_ids([outputs()]) if outputs else set())
    sizes = Counter[str]()
    for name, parameter in model.named_parameters():
        where = id(parameter)
        if where in adapters:
            part = "adapter"
        elif where in layers:
            part = "decoder layers" if "decoder" in name.split(".") else "layers"
        elif where in tables:
            part = "embeddings"
        else:
            part = "head" if where in outside else "other"
        sizes[part] += parameter.numel()
    return {part: sizes[part] for part in _PARTS if sizes[part]}


def _ids(modules: "Sequence[torch.nn.Module | None]") -> set[int]:
    return {id(parameter) for module in modules if module is not None for parameter in module.parameters()}


def _embeddings(base: "torch.nn.Module") -> "list[torch.nn.Module]":
    """Return the tables of an encoder, and its modules that are called embeddings."""
    import torch

    return [
        module
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Embedding) or name.rpartition(".")[2] == "embeddings"
    ]


def _adapters(model: "torch.nn.Module") -> set[int]:
    """Return the ids of the parameters that peft adds beside a layer, which it keeps as `base_layer`."""
    adapted = (module for module in model.modules() if "base_layer" in dict(module.named_children()))
    named = (pair for module in adapted for pair in module.named_parameters())
    return {id(parameter) for name, parameter in named if not name.startswith("base_layer.")}


def _first_modules(model: "torch.nn.Module") -> dict[str, int]:
    """Return the number of parameters of each module of a model; empty: it has one, or too many to list."""
    sizes = Counter[str]()
    for name, parameter in model.named_parameters():
        sizes[name.partition(".")[0]] += parameter.numel()
    return dict(sizes) if 1 < len(sizes) <= _MOST else {}
