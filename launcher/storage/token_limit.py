"""The micro-batches that did not fit into memory: RUN/max_tokens.json.

It limits the tokens of a micro-batch in later starts on the same layout. On other ranks, under another strategy, or
with another `train.max_tokens` in the recipe, it has no effect. The limit changes memory and speed only.
"""

import json

from launcher.config import strict_json
from launcher.config.atomic_files import write
from launcher.config.recipe import Recipe
from launcher.storage.run_dir import RunDir
from launcher.storage.run_files import TokenLimit

_HINT = "delete it: the limit is found again"


def read(folder: RunDir, recipe: Recipe, ranks: int) -> int | None:
    """Return the maximum tokens of a micro-batch: that of the recipe, or less if more did not fit on this layout; None:
    no limit. Raises DamagedFile."""
    own = recipe.train.max_tokens
    if not strict_json.exists(folder.token_limit):
        return own
    found = strict_json.read(folder.token_limit, TokenLimit, _HINT)
    if found.layout != _layout(recipe, ranks):
        return own
    return found.max_tokens if own is None else min(own, found.max_tokens)


def lower(folder: RunDir, recipe: Recipe, ranks: int, max_tokens: int) -> bool:
    """Record that micro-batches need to have at most so many tokens on this layout. Returns False if this or a lower
    limit is known already."""
    known = read(folder, recipe, ranks)
    lower = known is None or max_tokens < known
    if lower:
        limit = TokenLimit(max_tokens=max_tokens, layout=_layout(recipe, ranks))
        write(folder.token_limit, json.dumps(limit.model_dump(), indent=1))
    return lower


def _layout(recipe: Recipe, ranks: int) -> str:
    strategy = recipe.strategy.model_dump(mode="json")
    return json.dumps({"ranks": ranks, "strategy": strategy, "max_tokens": recipe.train.max_tokens}, sort_keys=True)
