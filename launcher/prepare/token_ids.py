"""The ids of the tokens that a recipe names, added to the facts of its prepared data."""

from collections.abc import Iterable
from pathlib import Path

from launcher.config import plugins
from launcher.config.base_model import hint
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import Recipe
from launcher.plan import facts


def complete(recipe: Recipe, prepared: Path) -> facts.Facts:
    """Read the facts of a prepared folder, and add the ids of the tokens that the recipe names. Raises UserError."""
    known = facts.read(prepared)
    task = plugins.task(recipe.task)
    task.check(recipe.task, known, prepared)
    inner = plugins.task(recipe.inner_task)
    named = inner.named_tokens(recipe.inner_task)
    if not named:
        return known
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(prepared / "tokenizer" / "tokenizer.json"))
    ids = {token: backend.token_to_id(token) for token in named}
    problems = [
        Problem("task.never", f"{token!r} is not in the vocabulary ({_suggestion(token, backend.get_vocab())})")
        for token, number in ids.items()
        if number is None
    ]
    if problems:
        raise UserError(problems)
    return known.model_copy(update={"token_ids": ids})


def _suggestion(token: str, known: Iterable[str]) -> str:
    found = hint(token, known)
    return found if found.startswith("did") else "its tokens stand in tokenizer.json"
