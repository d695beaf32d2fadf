"""Estimates in bytes: peak memory of a device, and size of a checkpoint."""

from launcher.config import plugins
from launcher.config.base_model import Strict
from launcher.config.recipe import Recipe
from launcher.plan import logit_blocks
from launcher.plan.facts import Facts
from launcher.plan.model_spec import Architecture
from launcher.storage.memory_folder import SLOTS

# bytes of a stored parameter; bf16 and fp16 use autocast
_WIDTH = {"fp32": 4, "tf32": 4, "bf16": 4, "fp16": 4, "fp64": 8}
_ACTIVATION = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp64": 8}
_HALF = ("bf16", "fp16")
_CONTEXT, _NCCL = 2**29, 3 * 2**29
"""Bytes of a CUDA context with the kernels of torch's libraries, and of the buffers of NCCL. Both are typical values,
which were not measured here."""
_FRAGMENTATION = 0.05
"""Share of the tensors' bytes that CUDA's caching allocator cannot use. A typical value, which was not measured."""


def stored_bytes(precision: str) -> int:
    """Return the bytes of a stored parameter."""
    return _WIDTH[precision]


def activation_bytes(precision: str) -> int:
    """Return the bytes of a value that layers pass on."""
    return _ACTIVATION[precision]


class MemoryTrace(Strict):
    """Memory of rank 0, from a build and two steps on fake tensors (see launcher.tools.memory). In bytes."""

    purposes: dict[str, int] = {}
    """Device memory by purpose, when it is highest; empty: it could not be traced."""
    stage: str = ""
    """Part of the step in which memory is highest."""
    update: dict[str, int] = {}
    """Device memory by purpose, when it is highest in the second update: all gradients and the optimiser's state."""
    start: int = 0
    """Highest device memory before the first step."""
    rows: int = 0
    """Rows of the traced micro-batch."""
    tokens: int = 0
    """Tokens of a row."""
    seconds: float = 0.0
    """Seconds that the trace took."""
    problem: str = ""
    """Why the rank could not be traced; empty: it was."""


def parts(recipe: Recipe, shape: Architecture, facts: Facts, ranks: int, samples: int, device: str) -> dict[str, int]:
    """Return the bytes by purpose, for a micro-batch of `samples` of maximum length.

    Purposes are weights, gradients, optimiser state, activations and buffers. Buffers hold what a strategy gathers and
    reduces, and the gradients of tied embeddings. On CUDA, they are also autocast's copies of weights, the device
    context and fragmentation. On a CPU, the copy from which a thread writes checkpoints counts too.
    """
    share = plugins.strategy(recipe.strategy).memory_share(shape, ranks)
    width = _WIDTH[recipe.train.precision]
    size = shape.parameters * width
    trained = shape.trained / shape.parameters
    moments = recipe.optimizer.moments(shape.in_layers / shape.parameters) * trained
    # The sum of tied embeddings' gradients needs two. `gathered` has one, except with DTensors (benchmarks/memory.py).
    tied = shape.largest_parameter * (1 if share.gathered and recipe.tensor_parallel == 1 else 2)
    tensors = {
        "weights": round(share.weights * size),
        "gradients": round(share.gradients * trained * size),
        "optimizer": round(share.optimizer * moments * size),
        "activations": activations(recipe, shape, samples, facts.longest, device)
        + outputs(recipe, shape, facts, samples, device),
        "buffers": round((share.gathered + tied) * width + share.flat),
    }
    if device == "cuda":
        return on_cuda(tensors | _copies(recipe, shape), ranks)
    copy = checkpoint_copy(recipe, shape, ranks)
    return {
        **tensors,
        **({"checkpoint copy": copy} if device == "cpu" and copy else {}),
        **({"offloaded": round((share.host + share.moved * moments) * size)} if device == "cpu" and share.host else {}),
    }


def on_cuda(tensors: dict[str, int], ranks: int) -> dict[str, int]:
    """Return the bytes of tensors by purpose, with what a GPU holds besides: the CUDA context with NCCL, and the
    allocator's fragmentation."""
    context = _CONTEXT + (_NCCL if ranks > 1 else 0)
    return {**tensors, "device context": context, "fragmentation": round(_FRAGMENTATION * sum(tensors.values()))}


def _copies(recipe: Recipe, shape: Architecture) -> dict[str, int]:
    """Return the bytes of autocast's copies of the layers' weights in half precision; empty in full precision.

    A linear map keeps its copy for the backward, also if the weights themselves are gathered and freed (FSDP).
    """
    if recipe.train.precision not in _HALF:
        return {}
    return {"autocast copies": round(shape.in_layers / recipe.tensor_parallel * _ACTIVATION[recipe.train.precision])}


def activations(recipe: Recipe, shape: Architecture, samples: int, longest: int, device: str) -> int:
    """Return the bytes of the activations that layers store for the backward pass.

    A layer stores what `of_token` returns for each token, and attention maps of heads x length. A checkpointed layer
    stores its input (Chen et al., 2016), and one such layer at a time is recomputed. Tensor parallelism splits the
    inside of a layer.
    """
    tokens, width = samples * longest, _ACTIVATION[recipe.train.precision]
    layer = tokens * of_token(recipe, shape, longest, device) / recipe.tensor_parallel
    every = recipe.train.checkpointed_every
    if not every:
        return round(shape.layers * layer)
    again = -(-shape.layers // every)
    return round((shape.layers - again + 1) * layer + again * tokens * shape.hidden * width)


def of_token(recipe: Recipe, shape: Architecture, longest: int, device: str) -> float:
    """Return the bytes that a layer stores for a token.

    They are 17 hidden widths. If attention is not fused, as with attention dropout, 2.5 attention maps are added
    (Korthikanti et al., 2022, give 34 s b h + 5 a s^2 b bytes in 16 bits). Autocast on CUDA stores 42 bytes for each
    hidden unit, since it normalises in fp32 and copies the input of each linear map; a map takes 6 bytes, and 7 with
    dropout. Fused attention stores a mask of 16 bits for each pair of tokens there.
    """
    width = _ACTIVATION[recipe.train.precision]
    written_out = recipe.model.attention_kernel == "eager" or shape.attention_dropout > 0
    if device != "cuda" or recipe.train.precision not in _HALF:
        return (17 * shape.hidden + (2.5 * shape.heads * longest if written_out else 0)) * width
    of_map = 7 if shape.attention_dropout > 0 else 6
    return 42 * shape.hidden + longest * (of_map * shape.heads if written_out else width)


def outputs(recipe: Recipe, shape: Architecture, facts: Facts, samples: int, device: str) -> int:
    """Return the bytes of the head's outputs: as computed, in full precision, their logarithms, and their gradient.

    A loss that is computed in blocks needs those of one block, and a part of it in full precision. It also needs the
    gradient of the head's weight, which lives from the forward to the backward, and in the forward a copy of the weight
    in half precision. A model whose head does not allow this needs more.
    """
    task = plugins.task(recipe.task)(recipe.task, facts)
    width, full = _ACTIVATION[recipe.train.precision], max(4, _WIDTH[recipe.train.precision])
    values = samples * task.output_size(facts.longest)
    if task.whole_outputs:
        return int(values * (3 * full + width))
    classes = max(1, facts.vocab_size)  # 0: not known before the tokenizer is there
    block = min(values, classes * logit_blocks.rows_of_block(classes, width, device))
    part = min(block, classes * logit_blocks.rows_of_part(classes, full, device))
    weight = min(classes * shape.hidden, shape.largest_parameter)  # the head may have a smaller width, as in ALBERT
    held = full + (width if recipe.train.precision in _HALF else 0)
    return int(block * width + part * full + weight * held)


def checkpoint(recipe: Recipe, shape: Architecture) -> int:
    """Return the bytes of a checkpoint: weights, buffers and optimiser state."""
    moments = recipe.optimizer.moments(shape.in_layers / shape.parameters)
    return round((shape.parameters + moments * shape.trained + shape.buffers) * _WIDTH[recipe.train.precision])


def copies(recipe: Recipe, shape: Architecture, of_node: int, nodes: int) -> int:
    """Return the bytes of each node's memory for copies of the state (see launcher.storage.memory_folder); 0: none
    are made. `of_node`: ranks of a node."""
    if recipe.checkpoint.memory is None:
        return 0
    share = plugins.strategy(recipe.strategy).state_share(of_node * nodes, of_node)
    only_here = nodes > 1 and share * nodes < 1.5  # a neighbour node then has another copy
    return round(len(SLOTS) * share * checkpoint(recipe, shape) * (2 if only_here else 1))


def checkpoint_copy(recipe: Recipe, shape: Architecture, ranks: int) -> int:
    """Return the bytes of host memory in which a rank holds its parts of a checkpoint while a thread writes them. The
    last checkpoint of a start needs no copy."""
    beside = recipe.checkpoint.every is not None or recipe.evaluate.save_best
    return -(-checkpoint(recipe, shape) // ranks) if beside and recipe.checkpoint.mode == "async" else 0
