"""New weights for the head and the topmost layers of a pretrained transformers model."""

from typing import TYPE_CHECKING

from launcher.config.errors import Problem, UserError
from launcher.config.format import some
from launcher.models._transformers import TransformersConfig
from launcher.plan.layer_blocks import blocks

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def renew(model: "PreTrainedModel", config: TransformersConfig) -> list[str]:
    """Initialise the head and the topmost layers again, as far as the recipe requires it.

    The model's own initialiser draws from torch's generator. Returns the names of the new parameters. Raises UserError.
    """
    encoder, layers = model.base_model, blocks(model.base_model)
    if config.reinit_layers > len(layers):
        what = f"{config.reinit_layers}, but {type(encoder).__name__} has {len(layers)} layers"
        raise UserError(Problem("model.reinit_layers", what))
    if config.head and encoder is model:
        raise UserError(Problem("model.head", f"{type(model).__name__} has none outside of its encoder"))
    inside = set(encoder.modules())
    fresh = {module for module in model.modules() if config.head and module not in inside}
    fresh |= {module for layer in layers[len(layers) - config.reinit_layers :] for module in layer.modules()}
    tensors = {id(t) for module in fresh for t in [*module.parameters(recurse=False), *module.buffers(recurse=False)]}
    tensors -= {id(t) for module in inside if module not in fresh for t in module.parameters(recurse=False)}
    _draw(model, fresh, tensors)
    return [name for name, parameter in model.named_parameters() if id(parameter) in tensors]


def _draw(model: "PreTrainedModel", fresh: "set[torch.nn.Module]", tensors: set[int]) -> None:
    """Initialise the `fresh` modules and the tensors (by id). transformers initialises everything without its mark
    `_is_hf_initialized`. Tensors are also marked, because a tied tensor belongs to several modules."""
    if not tensors:
        return
    for module in model.modules():
        module._is_hf_initialized = module not in fresh
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor._is_hf_initialized = id(tensor) not in tensors
    model.initialize_weights()


def renewed(names: list[str]) -> list[str]:
    """Return the note on parameters that `renew` initialised; empty if there are none."""
    return [f"new weights, as the recipe says: {some(names)}"] if names else []
