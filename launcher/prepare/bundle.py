"""Everything that one recipe needs, in a folder to carry to a cluster without internet.

A bundle is a cache (launcher.plan.store) with one recipe: `launcher run --from FOLDER` uses it as such. It says by what
its data was made, so that nobody has to read the sources again, which are not there.
"""

import hashlib
import json
import shutil
from pathlib import Path

from launcher.config import kinds, load
from launcher.config.errors import Problem, UserError
from launcher.config.files import flush_tree
from launcher.config.recipe import Recipe
from launcher.plan import store
from launcher.plan.folder import RunFolder

RECIPE = "recipe.yaml"


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
        raise UserError(f"--to {to}: cannot be written: {str(error).splitlines()[0][-300:]}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _fill(folder: Path, recipe: Recipe, prepared: Path) -> None:
    (folder / "models").mkdir(parents=True)
    shutil.copytree(prepared, folder / "prepared" / prepared.name)
    _copy_model(recipe, folder / "models")
    load.dump(recipe, folder / RECIPE)
    said = {"data": _made_by(recipe), "prepared": prepared.name}
    (folder / store.BUNDLE).write_text(json.dumps(said), encoding="utf-8")
    flush_tree(folder)


def recipe_of(folder: Path) -> Path:
    """The recipe of a bundle. Raises UserError where there is none."""
    if not (folder / store.BUNDLE).is_file():
        raise UserError(f"--from {folder}: no bundle is there (`launcher prepare R --to FOLDER` makes one)")
    return folder / RECIPE


def identity(recipe: Recipe) -> str | None:
    """The name of the prepared folder that the cache, if it is a bundle, holds for this recipe."""
    try:
        said = json.loads((store.root() / store.BUNDLE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if said["data"] == _made_by(recipe):
        return str(said["prepared"])
    what = f"the bundle {store.root()} holds data that was prepared otherwise"
    raise UserError(
        Problem("data", f"{what} (leave data, tokenizer and the shape of samples as they are in its recipe)")
    )


def _made_by(recipe: Recipe) -> str:
    """What the recipe says of its data, without reading any of it."""
    task = kinds.of("tasks", recipe.inner_task).Task.prepared(recipe.inner_task)
    said = recipe.model_dump(mode="json", include={"data", "tokenizer"})
    said["data"]["train"].pop("weights", None)
    own = (
        None if recipe.tokenizer else recipe.model.model_dump(mode="json", include={"kind", "name", "run", "revision"})
    )
    return hashlib.blake2b(json.dumps([task, said, own], sort_keys=True).encode(), digest_size=16).hexdigest()


def _copy_model(recipe: Recipe, to: Path) -> None:
    """The files of the models that are loaded: of the cache's copy, of a folder, or of a run."""
    for model in (recipe.model, getattr(recipe.task, "teacher", None)):
        name, revision = getattr(model, "name", None), getattr(model, "revision", None)
        if name:
            copy = to / store.kept(name, revision).name
            shutil.copytree(store.found(name, revision), copy, dirs_exist_ok=True)
        if run := getattr(model, "run", None):
            folder, checkpoint = RunFolder(Path(store.found(run))), getattr(model, "checkpoint", "latest")
            _copy_run(folder, checkpoint, to / store.kept(run).name)


def _copy_run(folder: RunFolder, checkpoint: str | int, to: Path) -> None:
    """A run with the one checkpoint that is asked for."""
    saved, copy = folder.saved(checkpoint), RunFolder(to)
    saved.verify()
    for source, target in ((folder.tokenizer, copy.tokenizer), (folder.model, copy.model)):
        if source.is_dir():  # samples without tokens need no tokenizer, models of one's own no configuration
            shutil.copytree(source, target, dirs_exist_ok=True)
    shutil.copytree(saved.path, copy.checkpoints / saved.path.name, dirs_exist_ok=True)
    for file in (folder.recipe, folder.facts):
        if file.is_file():
            shutil.copy2(file, to)
