"""What a recipe takes from the hub: pinned to a commit, and brought into the cache, so that ranks never ask the hub."""

import json
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import xxhash

from launcher.config.atomic_files import expanded, flush_tree, is_dir, write
from launcher.config.errors import Problem, UserError, first_line
from launcher.config.recipe import Recipe
from launcher.plan import remote_code
from launcher.prepare import checkpoint_references, source_shards
from launcher.storage import cache_root, lease
from launcher.storage.run_dir import RunDir

_SECONDS = 5.0
"""How long the hub may take to answer: without a network nothing hangs."""
_COMMIT = r"[0-9a-f]{40}"
_MODEL = ("*.json", "*.txt", "*.model", "*.safetensors")
_ELSE = "run `launcher prepare` where the hub can be reached, with `--to FOLDER` to carry it here"


@dataclass(frozen=True)
class Repository:
    """Something of the hub in a recipe. `key`: where it stands there. `code`: its own may be run."""

    key: str
    kind: Literal["model", "dataset"]
    name: str
    revision: str | None
    code: bool = False


def repositories(recipe: Recipe) -> Iterator[Repository]:
    """What the recipe names that is no folder here: models, tokenizers and data sets with a `revision`."""
    found: list[tuple[str, Literal["model", "dataset"], Any]] = [("model", "model", recipe.model)]
    found += [("task.teacher", "model", getattr(recipe.task, "teacher", None))]
    found += [("tokenizer", "model", recipe.tokenizer)]
    found += [(leaf.key, "dataset", leaf.config) for leaf in source_shards.leaves(recipe.data)]
    for key, kind, config in found:
        name = getattr(config, "name", None)
        if name and hasattr(config, "revision") and not _local(name):
            yield Repository(key, kind, name, config.revision, bool(getattr(config, "trust_remote_code", False)))


def pin(recipe: Recipe, folder: RunDir, strict: bool = True) -> Recipe:
    """The recipe with the commit of each repository, so that a branch that moves never changes a run: that of the run
    in `folder` where it has begun, else what the hub says now, or said last. Raises UserError with each that nothing is
    known of; where it is not `strict`, data sets may stay as they are: a plan can be made without them."""
    begun = _begun(folder)
    problems: list[str | Problem] = []
    for repository in list(repositories(recipe)):
        earlier = begun.get((repository.key, repository.name)) if repository.revision is None else None
        try:
            recipe = _put(recipe, repository.key.split("."), earlier or commit(repository))
        except UserError as error:
            problems += error.problems
    needed = strict or any(isinstance(problem, Problem) and problem.key.startswith("model.") for problem in problems)
    if problems and needed:
        raise UserError(problems)
    return recipe


def commit(repository: Repository) -> str:
    """The commit that a revision stands for. Raises UserError."""
    if re.fullmatch(_COMMIT, repository.revision or ""):
        return str(repository.revision)
    memory = _memory(repository)
    try:
        found = _ask(repository)
    except UserError:
        if not memory.is_file():
            raise
        return str(json.loads(memory.read_text(encoding="utf-8"))["commit"])
    with suppress(OSError):  # a cache that cannot be written: without a network nothing is remembered
        memory.parent.mkdir(parents=True, exist_ok=True)
        write(memory, json.dumps({"name": repository.name, "revision": repository.revision, "commit": found}))
    return found


def missing(recipe: Recipe) -> list[Repository]:
    """The recipe's models that are of the hub, and not in the cache yet."""
    return [found for found in _models(recipe) if not cache_root.kept(found.name, found.revision).is_dir()]


def _models(recipe: Recipe) -> list[Repository]:
    return [found for found in repositories(recipe) if found.key in ("model", "task.teacher")]


def fetch(recipe: Recipe) -> None:
    """Bring the models that are missing into the cache. Raises UserError."""
    for repository in _models(recipe):
        final = cache_root.kept(repository.name, repository.revision)
        if final.is_dir():
            _complete(repository, final)
            continue
        final.parent.mkdir(parents=True, exist_ok=True)
        held = lease.acquire(final.parent, f".{final.name}", done=final, what=f"bring {repository.name}")
        if held is not None:
            try:
                _bring(repository, final)
            finally:
                held.release()


def _bring(repository: Repository, final: Path) -> None:
    """A copy of the repository's files under its final name, at once. Raises UserError."""
    aside = final.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        shutil.copytree(_download(repository), aside)
        flush_tree(aside)
        aside.rename(final)
    except (OSError, shutil.Error) as error:
        if not final.is_dir():  # else another has brought it meanwhile
            why = first_line(error)[-300:]
            raise UserError(f"{repository.name} cannot be copied to {final.parent}: {why}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _complete(repository: Repository, final: Path) -> None:
    """Add the code to a copy that was brought when nobody trusted it. Raises UserError."""
    code = repository.code and remote_code.named(repository.name, "config.json", repository.revision)
    if not code or any(final.glob("*.py")):
        return
    for file in _download(repository).glob("*.py"):
        write(final / file.name, file.read_text(encoding="utf-8"))


def _download(repository: Repository) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [*_MODEL, *(["*.py"] if repository.code else [])]
    try:
        return Path(snapshot_download(repository.name, revision=repository.revision, allow_patterns=patterns))
    except Exception as error:  # of the network, the disk and the hub: there are dozens
        raise _unreachable(repository, error) from None


def _ask(repository: Repository) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        told = HfApi().repo_info(
            repository.name, repo_type=repository.kind, revision=repository.revision, timeout=_SECONDS
        )
    except RevisionNotFoundError:
        what = f"{repository.name} has no revision {repository.revision!r} on the hub"
        raise UserError(Problem(f"{repository.key}.revision", what)) from None
    except RepositoryNotFoundError:
        advice = "a typing error, or it is private and HF_TOKEN is not set"
        what = f"no folder here, and no {repository.kind} of this name on the hub ({advice})"
        raise UserError(Problem(f"{repository.key}.name", f"{repository.name}: {what}")) from None
    except Exception as error:  # of the network: there are dozens
        raise _unreachable(repository, error) from None
    return str(told.sha)


def _unreachable(repository: Repository, error: Exception) -> UserError:
    why = first_line(error)[:160]
    what = f"no folder here, and the hub cannot be asked for it: {why} ({_ELSE})"
    return UserError(Problem(f"{repository.key}.name", f"{repository.name}: {what}"))


def _begun(folder: RunDir) -> dict[tuple[str, str], str]:
    """The commits that a run was started with."""
    recipe = checkpoint_references.begun(folder)
    return {(one.key, one.name): one.revision for one in repositories(recipe) if one.revision} if recipe else {}


def _put(value: Any, path: Sequence[str], revision: str) -> Any:
    """A configuration with a revision deep inside it."""
    if not path:
        return value.model_copy(update={"revision": revision})
    if isinstance(value, dict):
        return {**value, path[0]: _put(value[path[0]], path[1:], revision)}
    return value.model_copy(update={path[0]: _put(getattr(value, path[0]), path[1:], revision)})


def _local(name: str) -> bool:
    """Whether a name is of a folder: here, or of one that a bundle has a copy of."""
    return name.startswith((".", "/", "~")) or is_dir(expanded(name)) or is_dir(cache_root.kept(name))


def _memory(repository: Repository) -> Path:
    asked = f"{repository.kind}\0{repository.name}\0{repository.revision or ''}"
    return cache_root.root() / "commits" / f"{xxhash.xxh3_128_hexdigest(asked.encode())}.json"
