"""The data that a run was trained on: its prepared samples, and whether the sources still give them."""

from dataclasses import dataclass, replace
from pathlib import Path

from launcher.config import load, strict_json
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.plan.facts import Facts, of_run
from launcher.prepare import prepared_data, token_ids
from launcher.storage import cache_root
from launcher.storage.run_dir import RunDir


@dataclass(frozen=True)
class RunData:
    """The prepared data of a run.

    `facts`: of the data in `prepared`. `identity`: of the sources as they are now; None: they cannot be read. `same`:
    whether it is the data that the run was trained on. `changed`: why the rows of the samples cannot be named; empty:
    the sources still give these samples.
    """

    folder: RunDir
    recipe: Recipe
    facts: Facts
    prepared: Path
    identity: str | None
    same: bool = True
    changed: str = ""


def of(path: str) -> RunData:
    """Return the data of a run. If the cache does not have it, it is prepared again. Raises UserError."""
    found = existing(path)
    if found.prepared.is_dir():
        return found
    if found.identity is None:
        raise UserError(f"{path}: the cache does not have its data, and {found.changed}")
    prepared = prepared_data.prepare(found.recipe, found.identity)
    if found.identity == found.facts.digest:
        return found
    changed = f"{found.changed}, and the cache does not have the data of the run: these are samples of the source now"
    facts = token_ids.complete(found.recipe, prepared)
    return replace(found, facts=facts, prepared=prepared, same=False, changed=changed)


def existing(path: str) -> RunData:
    """Return the data of a run. `prepared` is missing if the cache does not have it. Raises UserError."""
    folder = RunDir(Path(path))
    if not strict_json.exists(folder.recipe) or not strict_json.exists(folder.facts):
        raise UserError(f"{path}: no run is there (a run folder is named, such as runs/quickstart-pretrain)")
    loaded, facts = load.stored(folder.recipe), of_run(folder.path)
    recipe, prepared = loaded.value, cache_root.prepared(facts.digest)
    try:
        identity = prepared_data.identity(recipe)
    except UserError as error:
        changed = f"the source cannot be read: {error.problems[0]}"
        return RunData(folder, recipe, facts, prepared, None, changed=changed)
    changed = f"the source has changed since the run began (data {facts.digest[:8]}, now {identity[:8]})"
    return RunData(folder, recipe, facts, prepared, identity, changed="" if identity == facts.digest else changed)
