"""From a recipe's sources to a prepared folder: tokenizer, samples as Arrow files, and the facts about them.

The folder is named by its content: source bytes or revisions, tokenizer, what the task's samples depend on, and the
version of this code. Sources are read and tokenised shard by shard, in parallel processes; what is finished outlives a
kill. Weights of a mixture and how tokens are masked are no part of it: they are decided when a step is drawn.
"""

import hashlib
import json
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from launcher.config import plugins
from launcher.config.atomic_files import free_bytes
from launcher.config.errors import Problem, UserError
from launcher.config.format import human, plural
from launcher.config.recipe import Fraction, Recipe, TrainTokenizer
from launcher.prepare import bundle, source_shards, strata, tokenizer
from launcher.prepare.preparation import Preparation
from launcher.prepare.shards import SIDES
from launcher.storage import cache, cache_root, disk_full
from launcher.storage.lease import LeaseLost

VERSION = 5
"""Part of every prepared folder's name: raise it when the same input gives other samples or facts."""


def identity(recipe: Recipe) -> str:
    """The name of the prepared folder: where the content was found is no part of it. That of a bundle is taken from it.
    Raises UserError with every source that cannot be found."""
    if held := bundle.identity(recipe):
        return held
    task = plugins.task(recipe.inner_task)
    fraction: Any = recipe.data.validation.fraction if isinstance(recipe.data.validation, Fraction) else None
    if strata.stratified(recipe.data, source_shards.columns_of(recipe.inner_task)):
        fraction = [fraction, "stratified"]
    trained = metadata.version("tokenizers") if isinstance(recipe.tokenizer, TrainTokenizer) else None
    parts: list[Any] = [
        VERSION,
        trained,
        recipe.data.max_length,
        recipe.data.deduplicate,
        fraction,
        task.preparation_key(recipe.inner_task),
    ]
    problems: list[str | Problem] = []
    found = source_shards.leaves(recipe.data)
    for leaf in found:
        own = leaf.config.model_dump(mode="json", exclude={"path", "name", "revision"}, context={"identity": True})
        parts.append([leaf.side, leaf.name, own])
    made = [partial(plugins.source(leaf.config).fingerprint, leaf.key) for leaf in found]
    made += [partial(tokenizer.fingerprint, recipe)] if task.tokenized else []
    for fingerprint in made:
        try:
            parts.append(fingerprint())
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def find(name: str) -> Path | None:
    """The prepared folder of this name where there is one."""
    folder = cache.path(name)
    return folder if folder.is_dir() else None


def prepare(recipe: Recipe, name: str | None = None, most: int | None = None) -> Path:
    """The prepared folder, made now where it is not there. `name`: its identity, where that is known already: it takes
    reading the sources. `most`: processes to make it with (None: one a processor). Raises UserError for mistakes in the
    data, and for a full disk."""
    name = name or identity(recipe)
    while find(name) is None:
        try:
            with cache.making(name) as making:
                if making is not None:
                    _make(Preparation(recipe, name, making.work, making.whole, making.lease, most), making)
        except LeaseLost:  # this process was held up for so long that another has taken over: wait for it
            continue
        except UserError:
            raise
        except Exception as error:
            if (number := disk_full.number(error)) is None:
                raise
            raise UserError(_full(cache.path(name), number)) from None
    cache.sweep(name)  # after one that was killed when it had all but finished
    return cache.path(name)


def _make(preparation: Preparation, making: cache.FolderCreation) -> None:
    """Of a mistake in the data nothing is kept: without it, the folder has another name."""
    try:
        preparation.make()
        if identity(preparation.recipe) != preparation.name:
            raise UserError(Problem("data.train", "the source changed while it was being prepared (start again)"))
    except UserError:
        making.forget()
        raise
    except FileNotFoundError as error:
        if not _of_the_user(error.filename):
            raise
        making.forget()
        raise UserError(f"{error.filename}: is gone: the source changed while it was being prepared") from None


def _of_the_user(file: object) -> bool:
    """Whether a file is none of the cache's."""
    return isinstance(file, str) and not Path(file).absolute().is_relative_to(cache_root.root().absolute())


def _full(final: Path, number: int) -> str:
    """What to do about a full disk: how much is needed in all, and what there is. Samples stand there twice while they
    are joined, and take about half of their text; a sample of the texts, for the tokenizer, up to all of it."""
    work = final.with_name(f".{final.name}.work")
    sizes = {file: _size(file) for file in work.rglob("*")}
    samples = sum(size for file, size in sizes.items() if file.name.startswith(SIDES))
    try:
        size, of = map(int, (work / "size").read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        size, of = 0, 1
    made = len(list(work.glob("shard-*.json")))
    there = sum(sizes.values())
    need = there - samples + 2 * samples * of // made if made else max(there, size) + size
    free = human(free_bytes(final.parent))
    told = f"{disk_full.cause(final.parent, number)}: about {human(need)} are needed in all, {free} are free"
    kept = f"{made} of {plural(of, 'shard')} are finished, stay in {work} ({human(there)}) and are gone on with"
    return f"{told} (make room there, or set LAUNCHER_CACHE to another disk); {kept}"


def _size(file: Path) -> int:
    """Bytes of a file; 0 for a folder, and for what another process is just taking away."""
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:
        return 0
