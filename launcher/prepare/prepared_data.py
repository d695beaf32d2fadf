"""The prepared data of a recipe: a folder of the cache with the tokenizer, the samples as Arrow files, and facts.json.

The name of the folder identifies its content: the bytes or revisions of the sources, the tokenizer, the task's settings
for samples, and the version of this code. The weights of a mixture and the masking of tokens have no effect on it,
since they are applied when a step is drawn. If a preparation is killed, its intermediate files stay.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

from launcher.config import paths, plugins
from launcher.config.atomic_files import free_bytes
from launcher.config.errors import Problem, UserError
from launcher.config.format import human, plural
from launcher.config.recipe import Fold, Fraction, Recipe, Share
from launcher.config.tokenizer import TrainTokenizer
from launcher.prepare import bundle, source_shards, strata, tokenizer
from launcher.prepare.source_shards import SIDES, LeafSource
from launcher.storage import cache, cache_root, disk_full
from launcher.storage.lease import LeaseLost

VERSION = 5
"""Part of every identity. Raise it when the same input gives other samples or facts."""


def identity(recipe: Recipe) -> str:
    """Return the name of the prepared folder. It depends on the content of the sources, not on their location.

    If the cache is a bundle, the bundle has the name. Raises UserError with every source that cannot be read.
    """
    if bundled := bundle.identity(recipe):
        return bundled
    task = plugins.task(recipe.inner_task)
    fraction: object = recipe.data.validation.fraction if isinstance(recipe.data.validation, Fraction) else None
    if strata.stratified(recipe.data, source_shards.columns_of(recipe.inner_task)):
        fraction = [fraction, "stratified"]
    if isinstance(recipe.data.validation, Fold):
        fraction = ["fold", recipe.data.validation.fold, recipe.data.validation.of]
    trained = metadata.version("tokenizers") if isinstance(recipe.tokenizer, TrainTokenizer) else None
    parts: list[object] = [
        VERSION,
        trained,
        recipe.data.max_length,
        recipe.data.deduplicate,
        fraction,
        task.preparation_key(recipe.inner_task),
    ]
    if isinstance(recipe.data.test, Share):
        parts.append(["test", recipe.data.test.fraction])
    return digest(parts, source_shards.leaves(recipe.data), recipe if task.tokenized else None)


def digest(parts: list[object], leaves: Sequence[LeafSource], tokenized: Recipe | None = None) -> str:
    """Return the name of a folder: a hash of `parts`, of the content of sources and, for a recipe `tokenized`, of its
    tokenizer. Raises UserError with every source that cannot be read."""
    for leaf in leaves:
        keys = leaf.config.model_dump(mode="json", exclude={"path", "name", "revision"}, context={"identity": True})
        parts.append([leaf.side, leaf.name, keys])
    fingerprints = [partial(plugins.source(leaf.config).fingerprint, leaf.key) for leaf in leaves]
    fingerprints += [partial(tokenizer.fingerprint, tokenized)] if tokenized else []
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
    """Return the prepared folder of this name; None: it does not exist."""
    folder = cache_root.prepared(name)
    return folder if folder.is_dir() else None


def prepare(recipe: Recipe, name: str | None = None, processes: int | None = None) -> Path:
    """Return the prepared folder, and prepare the data if it does not exist.

    name: identity of the data, if known; to compute it, the sources are read. processes: maximum number of processes
    (None: one per processor). Raises UserError for mistakes in the data, and for a full disk.
    """
    known = name or identity(recipe)

    def make(making: cache.FolderCreation) -> None:
        from launcher.prepare.preparation import Preparation

        Preparation(recipe, known, making.work, making.whole, making.lease, processes).run()

    return fill(known, make, partial(identity, recipe))


def fill(
    name: str, make: Callable[[cache.FolderCreation], None], identity: Callable[[], str], key: str = "data.train"
) -> Path:
    """Return the prepared folder of this name. If it does not exist, `make` fills it. `identity`: returns the name that
    the sources give it now. `key`: of the sources in the recipe. Raises UserError."""
    while find(name) is None:
        try:
            with cache.making(name) as making:
                if making is not None:
                    _run(name, make, identity, key, making)
        except LeaseLost:  # another process took over because this one hung: wait for it
            continue
        except UserError:
            raise
        except Exception as error:
            if (number := disk_full.number(error)) is None:
                raise
            raise UserError(_disk_full_message(cache_root.prepared(name), number)) from None
    cache.sweep(name)  # a process may have been killed between finishing the folder and cleaning up
    return cache_root.prepared(name)


def _run(
    name: str,
    make: Callable[[cache.FolderCreation], None],
    identity: Callable[[], str],
    key: str,
    making: cache.FolderCreation,
) -> None:
    """Run a preparation. Raises UserError for mistakes in the data, and for a source that changes while it is read.

    After a UserError the intermediate files are removed, because corrected data has another identity and cannot use
    them.
    """
    try:
        make(making)
        if identity() != name:
            raise UserError(Problem(key, "the source changed while it was being prepared (start again)"))
    except UserError:
        making.forget()
        raise
    except FileNotFoundError as error:
        if _is_cached(error.filename):
            raise
        making.forget()
        raise UserError(f"{error.filename}: is gone: the source changed while it was being prepared") from None


def _is_cached(file: object) -> bool:
    """Return whether a file belongs to the cache, or is unknown."""
    return not isinstance(file, str) or Path(file).absolute().is_relative_to(paths.cache().absolute())


def _disk_full_message(final: Path, number: int) -> str:
    """Return a message with the disk space that the preparation needs, and that is free.

    Samples take about half of the space of their text, and twice as much while they are joined. The texts that a
    tokenizer is trained from take up to the space of all texts.
    """
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
    """Return the bytes of a file; 0 for a folder, and for a file that another process is removing."""
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:
        return 0
