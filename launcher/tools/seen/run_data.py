"""The data that a run was trained on: its prepared samples, and whether the sources still give them."""

from dataclasses import dataclass
from pathlib import Path

from launcher.config import load, strict_json
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.plan.facts import Facts, of_run
from launcher.prepare import prepared_data, token_ids
from launcher.storage.run_dir import RunDir


@dataclass(frozen=True)
class RunData:
    """The prepared data of a run.

    `facts`: of the data in `prepared`. `same`: whether it is the data that the run was trained on. `changed`: why the
    rows of the samples cannot be named; empty: the sources still give these samples.
    """

    folder: RunDir
    recipe: Recipe
    facts: Facts
    prepared: Path
    same: bool = True
    changed: str = ""


def of(path: str) -> RunData:
    """Return the data of a run. If the cache does not have it, it is prepared again. Raises UserError."""
    folder = RunDir(Path(path))
    if not strict_json.exists(folder.recipe) or not strict_json.exists(folder.facts):
        raise UserError(f"{path}: no run is there (a run folder is named, such as runs/quickstart-pretrain)")
    loaded, facts = load.stored(folder.recipe), of_run(folder.path)
    recipe, prepared = loaded.value, prepared_data.find(facts.digest)
    try:
        identity = prepared_data.identity(recipe)
    except UserError as error:
        if prepared is None:
            raise loaded.located(error) from None
        return RunData(folder, recipe, facts, prepared, changed=f"the source cannot be read: {error.problems[0]}")
    if identity == facts.digest:
        return RunData(folder, recipe, facts, prepared or prepared_data.prepare(recipe, identity))
    changed = f"the source has changed since the run began (data {facts.digest[:8]}…, now {identity[:8]}…)"
    if prepared is not None:
        return RunData(folder, recipe, facts, prepared, changed=changed)
    prepared = prepared_data.prepare(recipe, identity)
    changed += ", and the cache no longer has what the run was trained on: the samples are those of the source now"
    return RunData(folder, recipe, token_ids.complete(recipe, prepared), prepared, same=False, changed=changed)
