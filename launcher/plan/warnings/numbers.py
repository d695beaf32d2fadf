"""Numbers that do not suit the devices or the task: precision, size of the vocabulary, and what the task finds odd."""

from launcher.config.errors import Problem
from launcher.config.recipe import Recipe
from launcher.config.tokenizer import TrainTokenizer
from launcher.plan.topology import World

_MULTIPLE = 64
"""Sizes that are a multiple of this suit the tensor cores: 64 numbers of 16 bits are 128 bytes (NVIDIA, "Matrix
Multiplication Background User's Guide")."""


def warnings(recipe: Recipe, world: World) -> list[Problem]:
    """Return the warnings about numbers."""
    return [*_precision(recipe, world), *_vocabulary(recipe, world), *_task(recipe)]


def _precision(recipe: Recipe, world: World) -> list[Problem]:
    """Return a warning for fp16 on devices that are known to compute in bf16."""
    devices = world.own_devices
    if recipe.train.precision != "fp16" or not devices or not all(device.bf16 for device in devices):
        return []
    what = f"fp16, and {devices[0].name or 'the device'} computes in bf16 as fast"
    return [
        Problem("train.precision", f"{what}, with the range of fp32 (bf16 needs no loss scale, and skips no steps)")
    ]


def _vocabulary(recipe: Recipe, world: World) -> list[Problem]:
    """Return a warning for a new vocabulary on a GPU whose size is no multiple of 64."""
    tokenizer = recipe.tokenizer
    if not isinstance(tokenizer, TrainTokenizer) or world.device == "cpu" or recipe.model.pretrained:
        return []
    if not (extra := tokenizer.vocab_size % _MULTIPLE):
        return []
    better = tokenizer.vocab_size - extra + _MULTIPLE
    what = f"{tokenizer.vocab_size:,} is no multiple of {_MULTIPLE}, which slows the head down on a GPU"
    return [Problem("tokenizer.vocab_size", f"{what} ({better:,} is one)")]


def _task(recipe: Recipe) -> list[Problem]:
    """Return the warnings of the task about its own keys."""
    key = "task" if recipe.inner_task is recipe.task else "task.task"
    return [Problem(f"{key}.{name}", what) for name, what in recipe.inner_task.odd_values().items()]
