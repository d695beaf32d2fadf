"""A test set with sources of its own, prepared in a folder beside that of the training and validation data.

Those keep their folder and its digest, so that a test set changes nothing that is trained. Its rows become samples with
the tokenizer and the labels of the training data. Rows that the training or validation data has too are left out.
"""

from functools import partial
from pathlib import Path

from launcher.config import paths, strict_json
from launcher.config.recipe import Recipe
from launcher.plan.facts import Facts
from launcher.prepare import bundle, prepared_data, source_shards, token_ids
from launcher.storage import cache, cache_root


def identity(recipe: Recipe, prepared: str) -> str | None:
    """Return the name of the prepared folder of the test set; None: it has no sources of its own.

    `prepared`: name of the folder of the training data. Raises UserError with every source that cannot be read.
    """
    if not (leaves := source_shards.test_leaves(recipe.data)):
        return None
    return bundle.test_identity(recipe) or prepared_data.digest(["test", prepared], leaves)


def prepare_all(recipe: Recipe, name: str | None, processes: int | None = None) -> tuple[Path, Facts]:
    """Prepare the data of a pinned recipe, then its test set. Returns the folder of the data, and the facts. `name`: of
    that folder, if it is known. `processes`: maximum number of processes. Raises UserError."""
    prepared = prepared_data.prepare(recipe, name, processes)
    return prepared, prepare(recipe, token_ids.complete(recipe, prepared), prepared, processes)


def prepare(recipe: Recipe, known: Facts, prepared: Path, processes: int | None = None) -> Facts:
    """Prepare the test set if it has sources of its own, and return the facts of the data with it. Raises UserError.

    `known`, `prepared`: facts and folder of the training data. `processes`: maximum number of processes.
    """
    name = identity(recipe, prepared.name)
    if name is None:
        return known

    def make(making: cache.FolderCreation) -> None:
        from launcher.prepare.separate_test_preparation import SeparateTestPreparation

        SeparateTestPreparation(recipe, name, making.work, making.whole, making.lease, processes, prepared).run()

    return _joined(known, prepared_data.fill(name, make, partial(_identity, recipe, prepared.name), "data.test"))


def find(recipe: Recipe, known: Facts, prepared: Path) -> Facts:
    """Return the facts of the data, with the test set if it is prepared. `known`, `prepared`: as for `prepare`."""
    name = identity(recipe, prepared.name)
    folder = prepared_data.find(name) if name else None
    return known if folder is None else _joined(known, folder)


def folder_of(known: Facts, prepared: Path) -> Path:
    """Return the prepared folder with the test samples. `prepared`: the folder of the training data."""
    return cache_root.prepared(known.test_digest) if known.test_digest else prepared


def _identity(recipe: Recipe, prepared: str) -> str:
    return identity(recipe, prepared) or ""


def _joined(known: Facts, folder: Path) -> Facts:
    """Return the facts of the data with those of its test set."""
    hint = f"move {folder} away: its data is prepared again"
    test = strict_json.read(folder / paths.FACTS, Facts, hint)
    sides = {
        "samples": {**known.samples, **test.samples}, "tokens": {**known.tokens, **test.tokens},
        "documents": {**known.documents, **test.documents}, "cut": {**known.cut, **test.cut},
    }  # fmt: skip
    of_test = {"test_digest": test.digest, "test_baseline": test.test_baseline}
    return known.model_copy(update={**sides, **of_test, "notes": [*known.notes, *test.notes]})
