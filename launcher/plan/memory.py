"""Estimates in bytes: peak memory of a device, and size of a checkpoint."""

from launcher.config import plugins
from launcher.config.recipe import Recipe
from launcher.plan.facts import Facts
from launcher.plan.model_spec import Architecture

# bytes of a stored parameter; bf16 and fp16 use autocast
_WIDTH = {"fp32": 4, "tf32": 4, "bf16": 4, "fp16": 4, "fp64": 8}
_ACTIVATION = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp64": 8}


def parts(recipe: Recipe, shape: Architecture, facts: Facts, ranks: int, samples: int, device: str) -> dict[str, int]:
    """Return the bytes by purpose, for a micro-batch of `samples` of maximum length.

    Purposes are weights, gradients, optimiser state, activations and buffers. Buffers hold what a strategy gathers and
    reduces, and the gradients of tied embeddings.
    """
    share = plugins.strategy(recipe.strategy).memory_share(shape, ranks)
    width = _WIDTH[recipe.train.precision]
    size = shape.parameters * width
    trained = shape.trained / shape.parameters
    moments = recipe.optimizer.moments(shape.in_layers / shape.parameters) * trained
    # The sum of tied embeddings' gradients needs two. `gathered` has one, except with DTensors (benchmarks/memory.py).
    tied = shape.largest_parameter * (1 if share.gathered and recipe.tensor_parallel == 1 else 2)
    return {
        "weights": round(share.weights * size),
        "gradients": round(share.gradients * trained * size),
        "optimizer": round(share.optimizer * moments * size),
        "activations": activations(recipe, shape, samples, facts.longest) + outputs(recipe, facts, samples),
        "buffers": round((share.gathered + tied) * width + share.flat),
        **({"offloaded": round((share.host + share.moved * moments) * size)} if device == "cpu" and share.host else {}),
    }


def activations(recipe: Recipe, shape: Architecture, samples: int, longest: int) -> int:
    """Return the bytes of the activations that layers store for the backward pass.

    A layer stores 17 hidden widths per token. If attention is not fused, as with attention dropout, it also stores 2.5
    attention maps of heads x length (Korthikanti et al., 2022, give 34 s b h + 5 a s^2 b bytes in 16 bits). A
    checkpointed layer stores its input (Chen et al., 2016), and one such layer at a time is recomputed. Tensor
    parallelism splits the inside of a layer.
    """
    tokens, width = samples * longest, _ACTIVATION[recipe.train.precision]
    written_out = recipe.model.attention_kernel == "eager" or shape.attention_dropout > 0
    maps = 2.5 * shape.heads * longest if written_out else 0
    layer = tokens * (17 * shape.hidden + maps) * width / recipe.tensor_parallel
    every = recipe.train.checkpointed_every
    if not every:
        return round(shape.layers * layer)
    again = -(-shape.layers // every)
    return round((shape.layers - again + 1) * layer + again * tokens * shape.hidden * width)


def outputs(recipe: Recipe, facts: Facts, samples: int) -> int:
    """Return the bytes of the head's outputs: as computed, in full precision, their logarithms, and their gradient."""
    task = plugins.task(recipe.task)(recipe.task, facts)
    width = max(4, _WIDTH[recipe.train.precision])
    return int(samples * task.output_size(facts.longest) * (3 * width + _ACTIVATION[recipe.train.precision]))


def checkpoint(recipe: Recipe, shape: Architecture) -> int:
    """Return the bytes of a checkpoint: weights, buffers and optimiser state."""
    moments = recipe.optimizer.moments(shape.in_layers / shape.parameters)
    return round((shape.parameters + moments * shape.trained + shape.buffers) * _WIDTH[recipe.train.precision])
