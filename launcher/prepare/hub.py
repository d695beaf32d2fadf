"""Repositories of the Hugging Face hub that a recipe names: pinned to a commit, and downloaded into the cache.

Ranks never connect to the hub.
"""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import xxhash

from launcher.config import paths
from launcher.config.atomic_files import expanded, is_dir, write
from launcher.config.errors import Problem, UserError, first_line
from launcher.config.model import ModelConfig
from launcher.config.recipe import Recipe
from launcher.config.tokenizer import PretrainedTokenizer
from launcher.config.types import HubRepository
from launcher.prepare import checkpoint_references, remote_code, source_shards
from launcher.storage import cache_root, lease
from launcher.storage.partial_folder import filling
from launcher.storage.run_dir import RunDir

_TIMEOUT = 5.0
"""Seconds to wait for an answer of the hub, so that nothing hangs without a network."""
_COMMIT = r"[0-9a-f]{40}"
_MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_ADVICE = "run `launcher prepare` where the hub can be reached, with `--to FOLDER` to carry it here"


@dataclass(frozen=True)
class Repository:
    """A repository in a recipe. `key`: its key there; `trust_remote_code`: whether its code may run."""

    key: str
    kind: Literal["model", "dataset"]
    name: str
    revision: str | None
    trust_remote_code: bool = False


def repositories(recipe: Recipe) -> Iterator[Repository]:
    """Yield the models, tokenizers and datasets of a recipe that are not local folders."""
    models = {key: model.hub_repository for key, model in _models(recipe).items()}
    if isinstance(own := recipe.tokenizer, PretrainedTokenizer):
        models["tokenizer"] = HubRepository(own.name, own.revision, own.trust_remote_code)
    sources = [*source_shards.leaves(recipe.data), *source_shards.test_leaves(recipe.data)]
    datasets = {leaf.key: leaf.config.hub_repository for leaf in sources}
    for key, repository in (models | datasets).items():
        if repository and not _is_local(repository.name):
            yield Repository(key, "model" if key in models else "dataset", *repository)


def _models(recipe: Recipe) -> dict[str, ModelConfig]:
    """Return the models of a recipe by key: the model to train, and the model that its task evaluates, if any."""
    teacher = recipe.task.teacher_model
    return {"model": recipe.model} | ({f"task.{recipe.task.teacher_key}": teacher} if teacher is not None else {})


def pin(recipe: Recipe, folder: RunDir, strict: bool = True) -> Recipe:
    """Return the recipe with the commit of each repository, so that a branch that moves never changes a run.

    It is the commit of the run in `folder` if that has begun, else what the hub answers now, or answered last. Raises
    UserError with each repository whose commit is not known. If not `strict`, and the hub cannot be reached, only the
    model has to be pinned: a plan does not need the others.
    """
    pinned = _pinned_commits(folder)
    problems, needed = list[str | Problem](), strict
    for repository in list(repositories(recipe)):
        earlier = pinned.get((repository.key, repository.name)) if repository.revision is None else None
        try:
            recipe = _with_revision(recipe, repository.key.split("."), earlier or commit(repository))
        except UserError as error:
            problems += error.problems
            needed = needed or repository.key == "model" or not isinstance(error, _Unreachable)
    if problems and needed:
        raise UserError(problems)
    return recipe


def commit(repository: Repository) -> str:
    """Return the commit of a repository's revision. Raises UserError.

    If the hub cannot be asked, it is the commit of the last answer.
    """
    if re.fullmatch(_COMMIT, repository.revision or ""):
        return str(repository.revision)
    entry = _cache_entry(repository)
    try:
        found = _query(repository)
    except UserError:
        if (cached := _cached_commit(entry)) is None:
            raise
        return cached
    with suppress(OSError):  # a cache that cannot be written only matters without a network
        entry.parent.mkdir(parents=True, exist_ok=True)
        write(entry, json.dumps({"name": repository.name, "revision": repository.revision, "commit": found}))
    return found


def _cached_commit(entry: Path) -> str | None:
    """Return the commit in an entry of the cache; None: it is missing or damaged."""
    try:
        found = json.loads(entry.read_bytes())["commit"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) and re.fullmatch(_COMMIT, found) else None


def missing(recipe: Recipe) -> list[Repository]:
    """Return the models of the hub that are not in the cache."""
    return [found for found in _model_repositories(recipe) if not cache_root.kept(found.name, found.revision).is_dir()]


def _model_repositories(recipe: Recipe) -> list[Repository]:
    return [found for found in repositories(recipe) if found.key in _models(recipe)]


def fetch(recipe: Recipe) -> None:
    """Download the missing models into the cache. Raises UserError."""
    for repository in _model_repositories(recipe):
        final = cache_root.kept(repository.name, repository.revision)
        if final.is_dir():
            _add_code(repository, final)
            continue
        final.parent.mkdir(parents=True, exist_ok=True)
        held = lease.acquire(final.parent, f".{final.name}", done=final, what=f"bring {repository.name}")
        if held is not None:
            try:
                _download_to(repository, final)
            finally:
                held.release()


def _download_to(repository: Repository, final: Path) -> None:
    """Copy the files of a repository to a folder, which appears complete or not at all. Raises UserError."""
    try:
        with filling(final) as aside:
            shutil.copytree(_download(repository), aside, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        if not final.is_dir():  # else another process has copied it
            why = first_line(error)[-300:]
            raise UserError(f"{repository.name} cannot be copied to {final.parent}: {why}") from None


def _add_code(repository: Repository, final: Path) -> None:
    """Add the code to a copy that was downloaded before the recipe trusted it. Raises UserError."""
    code = repository.trust_remote_code and remote_code.named(repository.name, "config.json", repository.revision)
    if not code or any(final.glob("*.py")):
        return
    for file in _download(repository).glob("*.py"):
        write(final / file.name, file.read_text(encoding="utf-8"))


def _download(repository: Repository) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [*_MODEL_FILES, *(["*.py"] if repository.trust_remote_code else [])]
    try:
        return Path(snapshot_download(repository.name, revision=repository.revision, allow_patterns=patterns))
    except Exception as error:  # dozens of types: of the network, the disk and the hub
        raise _unreachable(repository, error) from None


def _query(repository: Repository) -> str:
    """Ask the hub for the commit of a revision. Raises UserError."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().repo_info(
            repository.name, repo_type=repository.kind, revision=repository.revision, timeout=_TIMEOUT
        )
    except RevisionNotFoundError:
        what = f"{repository.name} has no revision {repository.revision!r} on the hub"
        raise UserError(Problem(f"{repository.key}.revision", what)) from None
    except RepositoryNotFoundError:
        advice = "a typing error, or it is private and HF_TOKEN is not set"
        what = f"no folder here, and no {repository.kind} of this name on the hub ({advice})"
        raise UserError(Problem(f"{repository.key}.name", f"{repository.name}: {what}")) from None
    except HFValidationError as error:
        what = f"no folder here, and no name of the hub: {first_line(error)[:160]}"
        raise UserError(Problem(f"{repository.key}.name", f"{repository.name}: {what}")) from None
    except Exception as error:  # dozens of types: of the network
        raise _unreachable(repository, error) from None
    return str(info.sha)


class _Unreachable(UserError):
    """Error: the hub gave no answer, so that nothing is known about a repository."""


def _unreachable(repository: Repository, error: Exception) -> _Unreachable:
    why = first_line(error)[:160]
    what = f"no folder here, and the hub cannot be asked for it: {why} ({_ADVICE})"
    return _Unreachable(Problem(f"{repository.key}.name", f"{repository.name}: {what}"))


def _pinned_commits(folder: RunDir) -> dict[tuple[str, str], str]:
    """Return the commits that a run was started with, by key and name; empty if it has not begun."""
    recipe = checkpoint_references.started_recipe(folder)
    return {(one.key, one.name): one.revision for one in repositories(recipe) if one.revision} if recipe else {}


def _with_revision(value: Any, path: Sequence[str], revision: str) -> Any:
    """Return a configuration (or a map in it) with another revision at a path of keys."""
    if not path:
        return value.model_copy(update={"revision": revision})
    changed = {path[0]: _with_revision(dict(value)[path[0]], path[1:], revision)}
    return {**value, **changed} if isinstance(value, dict) else value.model_copy(update=changed)


def _is_local(name: str) -> bool:
    """Return whether a name is a local folder, or has a copy in a bundle."""
    return name.startswith((".", "/", "~")) or is_dir(expanded(name)) or is_dir(cache_root.kept(name))


def _cache_entry(repository: Repository) -> Path:
    query = f"{repository.kind}\0{repository.name}\0{repository.revision or ''}"
    return paths.cache() / paths.COMMITS / f"{xxhash.xxh3_128_hexdigest(query.encode())}.json"
