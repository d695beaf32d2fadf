"""Bundles: folders with everything that one recipe needs, for a cluster without internet.

A bundle is a cache (launcher.storage.cache_root) with one recipe: `launcher run --from FOLDER` uses it as the cache.
The sources are not in it and cannot be read again. It therefore records the configuration with which its data was
prepared.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

from launcher.config import load, paths, plugins, strict_json
from launcher.config.atomic_files import expanded, is_dir, is_file
from launcher.config.errors import Problem, UserError, first_line
from launcher.config.recipe import Recipe
from launcher.config.strict_json import PlainName, Stored
from launcher.config.tokenizer import PretrainedTokenizer
from launcher.prepare import tokenizer
from launcher.storage import cache_root
from launcher.storage.partial_folder import filling
from launcher.storage.run_dir import RunDir

_ADVICE = "`launcher prepare R --to FOLDER` makes one"


class _Bundle(Stored):
    """Content of bundle.json. `data`: digest of the data's configuration; `prepared`: name of the prepared folder;
    `test`: of a test set with sources of its own."""

    data: str
    prepared: PlainName
    test: PlainName | None = None


def check_room(to: Path) -> None:
    """Raise UserError if the path of a new bundle exists and is no empty folder."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"--to {to}: is there already (another name, or move it away)")


def make(recipe: Recipe, prepared: Path, to: Path, test: Path | None = None) -> None:
    """Write the bundle of a pinned recipe whose data is prepared and whose models are downloaded. `test`: the folder of
    a test set with sources of its own. Raises UserError."""
    check_room(to)
    to = to.absolute()
    try:
        with filling(to) as aside:
            _fill(aside, recipe, prepared, test)
    except (OSError, shutil.Error) as error:
        raise UserError(f"--to {to}: cannot be written: {first_line(error)[-300:]}") from None


def _fill(folder: Path, recipe: Recipe, prepared: Path, test: Path | None) -> None:
    (folder / paths.MODELS).mkdir()
    for data in (prepared, *([test] if test else [])):
        shutil.copytree(data, folder / paths.PREPARED / data.name)
    _copy_model(recipe, folder / paths.MODELS)
    _copy_tokenizer(recipe, folder / paths.MODELS)
    load.dump(recipe, folder / paths.RECIPE)
    content = {"data": _data_digest(recipe), "prepared": prepared.name, "test": test.name if test else None}
    (folder / paths.BUNDLE).write_text(json.dumps(content), encoding="utf-8")


def recipe_of(folder: Path) -> Path:
    """Return the recipe file of a bundle.

    Raises UserError if there is no bundle, if it is incomplete, or if a link in it leads out of it.
    """
    if not strict_json.exists(folder / paths.BUNDLE):
        raise UserError(f"--from {folder}: no bundle is there ({_ADVICE})")
    _read(folder)
    if not is_file(folder / paths.RECIPE):
        raise strict_json.damage(folder / paths.RECIPE, "it is missing", _ADVICE)
    if link := _outward_link(folder):
        raise strict_json.damage(link, f"a link that leads out of {folder}", _ADVICE)
    return folder / paths.RECIPE


def _read(folder: Path) -> _Bundle:
    """Read bundle.json. Raises DamagedFile, also if the folder that it names is not in the bundle."""
    file = folder / paths.BUNDLE
    bundle = strict_json.read(file, _Bundle, _ADVICE)
    if not is_dir(folder / paths.PREPARED / bundle.prepared):
        what = f"prepared: no folder {strict_json.shown(bundle.prepared)} is in {folder / paths.PREPARED}"
        raise strict_json.damage(file, what, _ADVICE)
    return bundle


def _outward_link(folder: Path) -> Path | None:
    """Return the first link in a bundle that leads out of it; None: there is none."""
    inside = folder.resolve()
    for path, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            link = Path(path, name)
            if link.is_symlink() and not Path(os.path.realpath(link)).is_relative_to(inside):
                return link
    return None


def identity(recipe: Recipe) -> str | None:
    """Return the name of the prepared folder for a recipe; None: the cache is no bundle.

    Raises UserError if the bundle was made for other data.
    """
    if not strict_json.exists(paths.cache() / paths.BUNDLE):
        return None
    bundle = _read(paths.cache())
    if bundle.data == _data_digest(recipe):
        return bundle.prepared
    what = f"the bundle {paths.cache()} holds data that was prepared otherwise"
    raise UserError(
        Problem("data", f"{what} (leave data, tokenizer and the shape of samples as they are in its recipe)")
    )


def test_identity(recipe: Recipe) -> str | None:
    """Return the name of the prepared folder of a recipe's test set; None: the cache is no bundle. Raises UserError if
    the bundle was made for other data."""
    return _read(paths.cache()).test if identity(recipe) else None


def _data_digest(recipe: Recipe) -> str:
    """Return a hash of the configuration that prepared data depends on, without reading the sources."""
    task = plugins.task(recipe.inner_task).preparation_key(recipe.inner_task)
    data = recipe.model_dump(mode="json", include={"data", "tokenizer"})
    data["data"]["train"].pop("weights", None)
    later = {"test", "folds"}  # keys that older bundles do not have
    data["data"] = {key: value for key, value in data["data"].items() if value is not None or key not in later}
    (data["tokenizer"] or {}).pop("trust_remote_code", None)  # the revision identifies the code
    model = None
    if not recipe.tokenizer:
        model = recipe.model.model_dump(mode="json", include={"kind", "name", "run", "revision"})
    return hashlib.blake2b(json.dumps([task, data, model], sort_keys=True).encode(), digest_size=16).hexdigest()


def _copy_model(recipe: Recipe, to: Path) -> None:
    """Copy the models that the recipe loads: from the cache, from a local folder, or from a run."""
    for model in (recipe.model, recipe.task.teacher_model):
        if model is not None and (repository := model.hub_repository):
            copy = to / cache_root.kept(repository.name, repository.revision).name
            shutil.copytree(cache_root.found(repository.name, repository.revision), copy, dirs_exist_ok=True)
        if model is not None and (reference := model.run_reference):
            folder = RunDir(Path(cache_root.found(reference.run)))
            _copy_run(folder, reference.checkpoint, to / cache_root.kept(reference.run).name)


def _copy_tokenizer(recipe: Recipe, to: Path) -> None:
    """Copy a tokenizer from a local folder. A tokenizer of the hub needs no copy: it is part of the prepared data."""
    own = recipe.tokenizer
    if not isinstance(own, PretrainedTokenizer) or not is_dir(expanded(own.name)):
        return
    copy = to / cache_root.kept(own.name).name
    copy.mkdir(exist_ok=True)
    for file in tokenizer.files(own.name, code=own.trust_remote_code):
        shutil.copy2(file, copy)


def _copy_run(folder: RunDir, checkpoint: str | int, to: Path) -> None:
    """Copy a run with one of its checkpoints."""
    saved, copy = folder.saved(checkpoint), RunDir(to)
    saved.verify()
    for source, target in ((folder.tokenizer, copy.tokenizer), (folder.model, copy.model)):
        if source.is_dir():  # samples without tokens need no tokenizer, models of the user no configuration
            shutil.copytree(source, target, dirs_exist_ok=True)
    shutil.copytree(saved.path, copy.checkpoints / saved.path.name, dirs_exist_ok=True)
    for file in (folder.recipe, folder.facts):
        if file.is_file():
            shutil.copy2(file, to)
