"""Layouts: which strategies, with which options, can run a recipe and fit into memory."""

import shlex
from collections.abc import Iterator
from importlib.util import find_spec

from launcher.config import kinds, plugins
from launcher.config.errors import Problem
from launcher.config.recipe import Recipe
from launcher.config.types import StrategyConfig
from launcher.plan import memory
from launcher.plan.facts import Facts
from launcher.plan.model_spec import Architecture

_MOST_RANKS = 64


def misfits(recipe: Recipe, ranks: int) -> list[str | Problem]:
    """Return mistakes of the recipe's strategy on this number of ranks, for any model."""
    strategy = plugins.strategy(recipe.strategy)
    for library in strategy.libraries:
        if find_spec(library) is None:
            return [Problem("strategy", f"{library} is not installed (pip install {library}, or take ddp or fsdp)")]
    what = strategy.check(ranks)
    return [Problem("strategy", what)] if what else []


def runnable(recipe: Recipe, ranks: int, whole: bool = False) -> Recipe:
    """Return the recipe for an evaluation: with ddp if its own strategy cannot be used.

    It cannot if it does not run on this number of ranks, or if each rank needs the `whole` model. The result of an
    evaluation does not depend on the strategy.
    """
    if not whole and not misfits(recipe, ranks):
        return recipe
    return recipe.model_copy(update={"strategy": kinds.module("strategies", "ddp").Config()})


def refusals(recipe: Recipe, shape: Architecture) -> list[str | Problem]:
    """Return the keys of the recipe that its strategy does not support for this model, each with the reason."""
    return [Problem(key, what) for key, what in plugins.strategy(recipe.strategy).refusals(recipe, shape.heads)]


def mesh(recipe: Recipe, ranks: int) -> dict[str, int]:
    """Return the size of each axis of the strategy's mesh; empty: no mesh."""
    return plugins.strategy(recipe.strategy).axes(ranks)


def micro(recipe: Recipe, ranks: int, longest: int) -> tuple[int, int]:
    """Return the micro-batches of a rank, and the samples of each, for samples of maximum length."""
    share = -(-recipe.train.global_batch // max(1, ranks // recipe.tensor_parallel))
    if recipe.train.max_tokens is None:
        return 1, share
    size = max(1, min(share, recipe.train.max_tokens // longest))
    return -(-share // size), size


def needed(recipe: Recipe, shape: Architecture, facts: Facts, ranks: int, device: str) -> dict[str, int]:
    """Return the bytes of device memory by purpose. On a CPU this includes memory that is offloaded to the host."""
    return memory.parts(recipe, shape, facts, ranks, micro(recipe, ranks, facts.longest)[1], device)


def nearest(recipe: Recipe, shape: Architecture, facts: Facts, ranks: int, available: int, device: str) -> str:
    """Return advice for a layout that does not fit into `available` bytes of a device.

    It names the fitting layout with the least sharding: on these ranks, else with smaller micro-batches, else on more
    devices. On a CPU, more ranks do not add memory.
    """
    for count in _counts(ranks) if device != "cpu" else [ranks]:
        for smaller in (False, True):
            fitting = list(_fitting(recipe, shape, facts, count, available, device, smaller))
            if fitting:
                size, layout = max(fitting, key=lambda found: found[0])
                on = "" if count == ranks else f" on {count} devices"
                return f"nearest that fits: {layout}{on}, about {size / 2**30:.1f} GiB"
    max_ranks = ranks if device == "cpu" else _MOST_RANKS
    on = "1 rank" if max_ranks == 1 else f"up to {max_ranks} ranks"
    return f"nothing known fits on {on}: a smaller model, or devices with more memory"


def written(strategy: StrategyConfig) -> str:
    """Return a strategy in the notation of a recipe, with the keys that were set."""
    keys = {"kind": strategy.kind} | strategy.model_dump(mode="json", exclude_unset=True)
    plain = {key: str(value).lower() if isinstance(value, bool) else value for key, value in keys.items()}
    return "{" + ", ".join(f"{key}: {value}" for key, value in plain.items()) + "}"


def layouts(recipe: Recipe, shape: Architecture, ranks: int) -> Iterator[Recipe]:
    """Yield the recipe under each layout of each kind that can run on this number of ranks."""
    for kind in kinds.available("strategies"):
        for strategy in kinds.module("strategies", kind).Strategy.layouts(ranks):
            other = recipe.model_copy(update={"strategy": strategy})
            if not misfits(other, ranks) and not refusals(other, shape):
                yield other


def _counts(ranks: int) -> list[int]:
    counts = [ranks]
    while counts[-1] * 2 <= _MOST_RANKS:
        counts.append(counts[-1] * 2)
    return counts


def _fitting(
    recipe: Recipe, shape: Architecture, facts: Facts, ranks: int, available: int, device: str, smaller: bool
) -> Iterator[tuple[int, str]]:
    if recipe.train.global_batch < ranks:
        return
    for other in layouts(recipe, shape, ranks):
        overrides = shlex.quote(f"strategy={written(other.strategy)}")
        if smaller:
            tokens = facts.longest
            other = other.model_copy(
                update={
                    "train": other.train.model_copy(update={"max_tokens": tokens, "activation_checkpointing": "layers"})
                }
            )
            overrides += f" train.max_tokens={tokens} train.activation_checkpointing=layers"
        size = sum(needed(other, shape, facts, ranks, device).values())
        if size <= available:
            yield size, overrides
