"""The size of the vocabulary before the data is prepared."""

import json
from pathlib import Path

from launcher.config import plugins
from launcher.config.recipe import Recipe
from launcher.config.tokenizer import PretrainedTokenizer, TrainTokenizer
from launcher.config.types import JsonObject
from launcher.storage import cache_root


def model_tokenizer(recipe: Recipe) -> PretrainedTokenizer | None:
    """Return the model's own tokenizer; None: it has none."""
    where = plugins.model(recipe.model).tokenizer()
    return where if where is None or isinstance(where, PretrainedTokenizer) else PretrainedTokenizer(name=str(where))


def size(recipe: Recipe) -> int:
    """Return the number of tokens, added tokens included; 0: not known before `launcher prepare`.

    The recipe states the number, or it is counted in a folder's tokenizer.json.
    """
    where = recipe.tokenizer or model_tokenizer(recipe)
    if where is None or isinstance(where, TrainTokenizer):
        return where.vocab_size if where else 0
    file = Path(cache_root.found(where.name, where.revision)) / "tokenizer.json"
    try:
        return _counted(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):  # loading it reports the mistake
        return 0


def _counted(saved: JsonObject) -> int:
    words = saved["model"]["vocab"]
    names = {word for word, _ in words} if isinstance(words, list) else set(words)
    added = {token["content"]: token["id"] for token in saved.get("added_tokens", [])}
    return max(len(names | added.keys()), 1 + max(added.values(), default=-1))
