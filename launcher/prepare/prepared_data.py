"""The prepared data of a recipe: a folder of the cache with the tokenizer, the samples as Arrow files, and facts.json.

The name of the folder identifies its content: the bytes or revisions of the sources, the tokenizer, what the samples of
the task depend on, and the version of this code. Intermediate files of a preparation outlive a kill. The weights of a
mixture and the masking of tokens are no part of it: they are applied when a step is drawn.
"""

import hashlib
import json
from functools import partial
from importlib import metadata
from pathlib import Path

from launcher.config import paths, plugins
from launcher.config.atomic_files import free_bytes
from launcher.config.errors import Problem, UserError
from launcher.config.format import human, plural
from launcher.config.recipe import Fraction, Recipe, TrainTokenizer
from launcher.prepare import bundle, source_shards, strata, tokenizer
from launcher.prepare.preparation import Preparation
from launcher.prepare.source_shards import SIDES
from launcher.storage import cache, cache_root, disk_full
from launcher.storage.lease import LeaseLost

VERSION = 5
"""Part of every identity. Raise it when the same input gives other samples or facts."""


def identity(recipe: Recipe) -> str:
    """Compute the name of the prepared folder. The location of the content has no effect. If the cache is a bundle, the
    name comes from there. Raises UserError with every source that cannot be read."""
    if bundled := bundle.identity(recipe):
        return bundled
    task = plugins.task(recipe.inner_task)
    fraction: object = recipe.data.validation.fraction if isinstance(recipe.data.validation, Fraction) else None
    if strata.stratified(recipe.data, source_shards.columns_of(recipe.inner_task)):
        fraction = [fraction, "stratified"]
    trained = metadata.version("tokenizers") if isinstance(recipe.tokenizer, TrainTokenizer) else None
    parts: list[object] = [
        VERSION,
        trained,
        recipe.data.max_length,
        recipe.data.deduplicate,
        fraction,
        task.preparation_key(recipe.inner_task),
    ]
    leaves = source_shards.leaves(recipe.data)
    for leaf in leaves:
        keys = leaf.config.model_dump(mode="json", exclude={"path", "name", "revision"}, context={"identity": True})
        parts.append([leaf.side, leaf.name, keys])
    fingerprints = [partial(plugins.source(leaf.config).fingerprint, leaf.key) for leaf in leaves]
    fingerprints += [partial(tokenizer.fingerprint, recipe)] if task.tokenized else []
    problems: list[str | Problem] = []
    for fingerprint in fingerprints:
        try:
            parts.append(fingerprint())
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def find(name: str) -> Path | None:
    """Return the prepared folder of this name, if it exists."""
    folder = cache_root.prepared(name)
    return folder if folder.is_dir() else None


def prepare(recipe: Recipe, name: str | None = None, processes: int | None = None) -> Path:
    """Return the prepared folder, and prepare the data if it does not exist.

    name: its identity, if known: computing it takes reading the sources. processes: the maximal number of processes
    (None: one per processor). Raises UserError for mistakes in the data, and for a full disk.
    """
    name = name or identity(recipe)
    while find(name) is None:
        try:
            with cache.making(name) as making:
                if making is not None:
                    _run(Preparation(recipe, name, making.work, making.whole, making.lease, processes), making)
        except LeaseLost:  # this process hung for so long that another has taken over: wait for that one
            continue
        except UserError:
            raise
        except Exception as error:
            if (number := disk_full.number(error)) is None:
                raise
            raise UserError(_disk_full_message(cache_root.prepared(name), number)) from None
    cache.sweep(name)  # a process may have been killed between finishing the folder and cleaning up
    return cache_root.prepared(name)


def _run(preparation: Preparation, making: cache.FolderCreation) -> None:
    """Run a preparation. Raises UserError for mistakes in the data, and for a source that changes while it is read.

    After a UserError the intermediate files are removed: corrected data has another identity, and cannot use them.
    """
    try:
        preparation.run()
        if identity(preparation.recipe) != preparation.name:
            raise UserError(Problem("data.train", "the source changed while it was being prepared (start again)"))
    except UserError:
        making.forget()
        raise
    except FileNotFoundError as error:
        if _is_cached(error.filename):
            raise
        making.forget()
        raise UserError(f"{error.filename}: is gone: the source changed while it was being prepared") from None


def _is_cached(file: object) -> bool:
    """Whether a file belongs to the cache, or is unknown."""
    return not isinstance(file, str) or Path(file).absolute().is_relative_to(paths.cache().absolute())


def _disk_full_message(final: Path, number: int) -> str:
    """Say how much disk space the preparation needs, and how much there is. Samples are on the disk twice while they
    are joined, and take about half of their text; the texts that a tokenizer is trained from take up to all of it."""
    work = final.with_name(f".{final.name}.work")
    sizes = {file: _size(file) for file in work.rglob("*")}
    samples = sum(size for file, size in sizes.items() if file.name.startswith(SIDES))
    try:
        source_size, total = map(int, (work / "size").read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        source_size, total = 0, 1
    finished = len(list(work.glob("shard-*.json")))
    used = sum(sizes.values())
    need = used - samples + 2 * samples * total // finished if finished else max(used, source_size) + source_size
    free = human(free_bytes(final.parent))
    what = f"{disk_full.cause(final.parent, number)}: about {human(need)} are needed in all, {free} are free"
    kept = f"{finished} of {plural(total, 'shard')} are finished, stay in {work} ({human(used)}) and are gone on with"
    return f"{what} (make room there, or set LAUNCHER_CACHE to another disk); {kept}"


def _size(file: Path) -> int:
    """Return the bytes of a file; 0 for a folder, and for a file that another process is just removing."""
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:
        return 0
