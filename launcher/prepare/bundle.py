"""Everything that one recipe needs, in a folder to carry to a cluster without internet.

A bundle is a cache (launcher.storage.cache_root) with one recipe: `launcher run --from FOLDER` uses it as such. It says
by what its data was made, so that nobody has to read the sources again, which are not there.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

from launcher.config import load, plugins, strict_json
from launcher.config.atomic_files import expanded, flush_tree, is_dir, is_file
from launcher.config.errors import Problem, UserError, first_line
from launcher.config.recipe import Recipe
from launcher.config.strict_json import PlainName, Stored
from launcher.prepare import tokenizer
from launcher.storage import cache_root
from launcher.storage.run_dir import RunDir

RECIPE = "recipe.yaml"
_AGAIN = "`launcher prepare R --to FOLDER` makes one"


class _Bundle(Stored):
    """bundle.json. `data`: a digest of what the recipe says of its data; `prepared`: the prepared folder's name."""

    data: str
    prepared: PlainName


def check_room(to: Path) -> None:
    """Raises UserError where something is in a bundle's place."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"--to {to}: is there already (another name, or move it away)")


def make(recipe: Recipe, prepared: Path, to: Path) -> None:
    """The bundle of a pinned recipe whose data is prepared and whose model is fetched. Raises UserError."""
    check_room(to)
    to = to.absolute()
    aside = to.with_name(f".{to.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        _fill(aside, recipe, prepared)
        if to.is_dir():
            to.rmdir()
        aside.rename(to)
    except (OSError, shutil.Error) as error:
        raise UserError(f"--to {to}: cannot be written: {first_line(error)[-300:]}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _fill(folder: Path, recipe: Recipe, prepared: Path) -> None:
    (folder / "models").mkdir(parents=True)
    shutil.copytree(prepared, folder / "prepared" / prepared.name)
    _copy_model(recipe, folder / "models")
    _copy_tokenizer(recipe, folder / "models")
    load.dump(recipe, folder / RECIPE)
    said = {"data": _made_by(recipe), "prepared": prepared.name}
    (folder / cache_root.BUNDLE).write_text(json.dumps(said), encoding="utf-8")
    flush_tree(folder)


def recipe_of(folder: Path) -> Path:
    """The recipe of a bundle. Raises UserError where there is none, and for one that is not whole or leads out of its
    folder."""
    if not strict_json.exists(folder / cache_root.BUNDLE):
        raise UserError(f"--from {folder}: no bundle is there ({_AGAIN})")
    _read(folder)
    if not is_file(folder / RECIPE):
        raise strict_json.damage(folder / RECIPE, "it is missing", _AGAIN)
    if link := _leaving(folder):
        raise strict_json.damage(link, f"a link that leads out of {folder}", _AGAIN)
    return folder / RECIPE


def _read(folder: Path) -> _Bundle:
    """What bundle.json says. Raises DamagedFile, also where the folder that it names is not in the bundle."""
    file = folder / cache_root.BUNDLE
    bundle = strict_json.read(file, _Bundle, _AGAIN)
    if not is_dir(folder / "prepared" / bundle.prepared):
        what = f"prepared: no folder {strict_json.shown(bundle.prepared)} is in {folder / 'prepared'}"
        raise strict_json.damage(file, what, _AGAIN)
    return bundle


def _leaving(folder: Path) -> Path | None:
    """The first link within a bundle that leads to somewhere else."""
    inside = folder.resolve()
    for path, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            link = Path(path, name)
            if link.is_symlink() and not Path(os.path.realpath(link)).is_relative_to(inside):
                return link
    return None


def identity(recipe: Recipe) -> str | None:
    """The name of the prepared folder that the cache, if it is a bundle, holds for this recipe. Raises UserError."""
    if not strict_json.exists(cache_root.root() / cache_root.BUNDLE):
        return None
    bundle = _read(cache_root.root())
    if bundle.data == _made_by(recipe):
        return bundle.prepared
    what = f"the bundle {cache_root.root()} holds data that was prepared otherwise"
    raise UserError(
        Problem("data", f"{what} (leave data, tokenizer and the shape of samples as they are in its recipe)")
    )


def _made_by(recipe: Recipe) -> str:
    """What the recipe says of its data, without reading any of it."""
    task = plugins.task(recipe.inner_task).preparation_key(recipe.inner_task)
    said = recipe.model_dump(mode="json", include={"data", "tokenizer"})
    said["data"]["train"].pop("weights", None)
    (said["tokenizer"] or {}).pop("trust_remote_code", None)  # the code is of the same revision
    own = (
        None if recipe.tokenizer else recipe.model.model_dump(mode="json", include={"kind", "name", "run", "revision"})
    )
    return hashlib.blake2b(json.dumps([task, said, own], sort_keys=True).encode(), digest_size=16).hexdigest()


def _copy_model(recipe: Recipe, to: Path) -> None:
    """The files of the models that are loaded: of the cache's copy, of a folder, or of a run."""
    for model in (recipe.model, getattr(recipe.task, "teacher", None)):
        name, revision = getattr(model, "name", None), getattr(model, "revision", None)
        if name:
            copy = to / cache_root.kept(name, revision).name
            shutil.copytree(cache_root.found(name, revision), copy, dirs_exist_ok=True)
        if run := getattr(model, "run", None):
            folder, checkpoint = RunDir(Path(cache_root.found(run))), getattr(model, "checkpoint", "latest")
            _copy_run(folder, checkpoint, to / cache_root.kept(run).name)


def _copy_tokenizer(recipe: Recipe, to: Path) -> None:
    """The files of a tokenizer that is a folder here; one of the hub is not asked for again."""
    name = getattr(recipe.tokenizer, "name", None)
    if name is None or not is_dir(expanded(name)):
        return
    copy = to / cache_root.kept(name).name
    copy.mkdir(exist_ok=True)
    for file in tokenizer.files(name, code=bool(getattr(recipe.tokenizer, "trust_remote_code", False))):
        shutil.copy2(file, copy)


def _copy_run(folder: RunDir, checkpoint: str | int, to: Path) -> None:
    """A run with the one checkpoint that is asked for."""
    saved, copy = folder.saved(checkpoint), RunDir(to)
    saved.verify()
    for source, target in ((folder.tokenizer, copy.tokenizer), (folder.model, copy.model)):
        if source.is_dir():  # samples without tokens need no tokenizer, models of one's own no configuration
            shutil.copytree(source, target, dirs_exist_ok=True)
    shutil.copytree(saved.path, copy.checkpoints / saved.path.name, dirs_exist_ok=True)
    for file in (folder.recipe, folder.facts):
        if file.is_file():
            shutil.copy2(file, to)
