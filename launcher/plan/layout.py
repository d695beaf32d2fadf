"""Whether a layout can run a recipe at all, whether it fits, and which one would."""

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
    """What is wrong with the recipe's strategy on so many ranks, whatever the model."""
    strategy = plugins.strategy(recipe.strategy)
    for library in strategy.libraries:
        if find_spec(library) is None:
            return [Problem("strategy", f"{library} is not installed (pip install {library}, or take ddp or fsdp)")]
    what = strategy.check(ranks)
    return [Problem("strategy", what)] if what else []


def runnable(recipe: Recipe, ranks: int, whole: bool = False) -> Recipe:
    """The recipe, under ddp where its own strategy cannot run on so many ranks, or each rank needs the model `whole`:
    no layout changes an evaluation."""
    if not whole and not misfits(recipe, ranks):
        return recipe
    return recipe.model_copy(update={"strategy": kinds.module("strategies", "ddp").Config()})


def refusals(recipe: Recipe, shape: Architecture) -> list[str | Problem]:
    """Keys of the recipe that its strategy cannot do with this model."""
    return [Problem(key, what) for key, what in plugins.strategy(recipe.strategy).refusals(recipe, shape.heads)]


def mesh(recipe: Recipe, ranks: int) -> dict[str, int]:
    """The axes of the strategy's mesh by name; empty where it has none."""
    return plugins.strategy(recipe.strategy).axes(ranks)


def micro(recipe: Recipe, ranks: int, longest: int) -> tuple[int, int]:
    """Micro-batches of a rank and samples in one, for samples of the longest length there is."""
    share = -(-recipe.train.global_batch // max(1, ranks // recipe.tensor_parallel))
    if recipe.train.max_tokens is None:
        return 1, share
    size = max(1, min(share, recipe.train.max_tokens // longest))
    return -(-share // size), size


def needed(recipe: Recipe, shape: Architecture, facts: Facts, ranks: int, device: str) -> dict[str, int]:
    """The memory of a device by what it is for, in bytes. Where the device is the cpu, what is offloaded to the host is
    there as well."""
    return memory.parts(recipe, shape, facts, ranks, micro(recipe, ranks, facts.longest)[1], device)


def nearest(recipe: Recipe, shape: Architecture, facts: Facts, ranks: int, there: int, device: str) -> str:
    """Advice where a layout does not fit into `there` bytes a device: the one that fits and shards the least, on these
    ranks, else with less in a micro-batch, else on more devices. More ranks on a CPU have no more memory."""
    for count in _counts(ranks) if device != "cpu" else [ranks]:
        for smaller in (False, True):
            fitting = list(_fitting(recipe, shape, facts, count, there, device, smaller))
            if fitting:
                size, layout = max(fitting, key=lambda found: found[0])
                on = "" if count == ranks else f" on {count} devices"
                return f"nearest that fits: {layout}{on}, about {size / 2**30:.1f} GiB"
    most = ranks if device == "cpu" else _MOST_RANKS
    on = "1 rank" if most == 1 else f"up to {most} ranks"
    return f"nothing known fits on {on}: a smaller model, or devices with more memory"


def written(strategy: StrategyConfig) -> str:
    """A strategy as it stands in a recipe, with the keys that were set."""
    keys = {"kind": strategy.kind} | strategy.model_dump(mode="json", exclude_unset=True)
    plain = {key: str(value).lower() if isinstance(value, bool) else value for key, value in keys.items()}
    return "{" + ", ".join(f"{key}: {value}" for key, value in plain.items()) + "}"


def layouts(recipe: Recipe, shape: Architecture, ranks: int) -> Iterator[Recipe]:
    """The recipe under each layout, of every kind, that so many ranks can run."""
    for kind in kinds.available("strategies"):
        for strategy in kinds.module("strategies", kind).Strategy.layouts(ranks):
            other = recipe.model_copy(update={"strategy": strategy})
            if not misfits(other, ranks) and not refusals(other, shape):
                yield other


def _counts(ranks: int) -> list[int]:
    more = [ranks]
    while more[-1] * 2 <= _MOST_RANKS:
        more.append(more[-1] * 2)
    return more


def _fitting(
    recipe: Recipe, shape: Architecture, facts: Facts, ranks: int, there: int, device: str, smaller: bool
) -> Iterator[tuple[int, str]]:
    if recipe.train.global_batch < ranks:
        return
    for other in layouts(recipe, shape, ranks):
        told = shlex.quote(f"strategy={written(other.strategy)}")
        if smaller:
            tokens = facts.longest
            other = other.model_copy(
                update={
                    "train": other.train.model_copy(update={"max_tokens": tokens, "activation_checkpointing": "layers"})
                }
            )
            told += f" train.max_tokens={tokens} train.activation_checkpointing=layers"
        size = sum(needed(other, shape, facts, ranks, device).values())
        if size <= there:
            yield size, told
