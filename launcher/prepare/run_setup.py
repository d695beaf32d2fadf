"""Everything before the first rank: plan, prepare, look at the run folder, and write down what will be run.

Every way to start a run comes through here, so that each finds the same mistakes and leaves the same files.
"""

import atexit
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from launcher.config import load, plugins, strict_json
from launcher.config.atomic_files import write as write_file
from launcher.config.cluster import Cluster
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import Recipe
from launcher.config.types import hint
from launcher.plan import facts, layout, plan, topology, writable_folders
from launcher.prepare import bundle, checkpoint_references, hub, prepared_data, source_preview
from launcher.storage import cache, disk_full, lease
from launcher.storage.run_dir import RunDir, SavedCheckpoint

_TOLD = ("torch", "transformers", "tokenizers", "datasets", "numpy", "accelerate", "deepspeed", "wandb", "launcher")


@dataclass(frozen=True)
class PreparedRun:
    """A run that may start: its folder holds the resolved recipe and the plan, and `resume` is verified."""

    recipe: Recipe
    cluster: Cluster
    facts: facts.Facts
    plan: plan.Plan
    folder: RunDir
    prepared: Path
    resume: SavedCheckpoint | None
    notes: list[str]
    start: lease.Lease | None = None

    def release(self) -> None:
        """Give up the right to start this run, for another process to take."""
        if self.start is not None:
            self.start.release()


def look(file: str, overrides: Sequence[str], cluster: Cluster, ranks: int | None) -> plan.Plan:
    """The plan alone, with the facts of prepared data where there are any. Nothing is made."""
    loaded = load.recipe(file, overrides)
    wrong = [*writable_folders.run(_folder(loaded.value)), *writable_folders.ranks(loaded.value, cluster, ranks)]
    try:
        with _readable(wrong):
            recipe = _pin(loaded.value, strict=False)
            return _plan(recipe, file, tuple(overrides), cluster, ranks, wrong)[1]
    except UserError as error:
        raise loaded.located(error) from None


def prepare(
    file: str, overrides: Sequence[str], most: int | None = None, to: Path | None = None
) -> tuple[Path, facts.Facts]:
    """The prepared folder of a recipe, and what it holds. `most`: processes to make it with; `to`: a bundle to make."""
    loaded = load.recipe(file, overrides)
    wrong = []
    if to is not None:
        bundle.check_room(to)
        wrong = writable_folders.unusable(to.absolute().parent, f"--to {to}", "name another folder")
    try:
        recipe = _pin(loaded.value)
        if wrong := [*wrong, *_cache(recipe, prepared_data.find(prepared_data.identity(recipe)))]:
            raise UserError(wrong)
        hub.fetch(recipe)
        prepared = prepared_data.prepare(recipe, most=most)
        if to is not None:
            bundle.make(recipe, prepared, to)
        return prepared, _known(recipe, prepared)
    except UserError as error:
        raise loaded.located(error) from None


def check(
    file: str, overrides: Sequence[str], cluster: Cluster, ranks: int | None, wrong: Sequence[str] = ()
) -> PreparedRun:
    """Plan and prepare, and look at the run folder; nothing is written there. `wrong`: what has been found already.
    Raises UserError."""
    loaded = load.recipe(file, overrides)
    try:
        with _readable(wrong):
            return _check(loaded.value, file, tuple(overrides), cluster, ranks, wrong)
    except UserError as error:
        raise loaded.located(error) from None


def write(checked: PreparedRun) -> PreparedRun:
    """Write the run folder: resolved recipe, plan, environment, tokenizer. What is returned holds the right to start
    this run until it is released, or this process ends. Raises UserError where another start has it, or a rank still
    writes."""
    with disk_full.reported(checked.folder.path, kind=UserError):
        checked = replace(checked, start=hold(checked.folder, ".start"))
        atexit.register(checked.release)
        return _written(checked)


def _written(checked: PreparedRun) -> PreparedRun:
    """A run whose folder has been written, without what a killed save left there."""
    with hold(checked.folder):
        for left in checked.folder.half_written():
            shutil.rmtree(left)
        if mended := checked.folder.mend_metrics():
            notes = [*checked.notes, mended]
            checked = replace(checked, notes=notes, plan=checked.plan.model_copy(update={"notes": notes}))
        _write(checked)
    return checked


@contextmanager
def _readable(wrong: Sequence[str]) -> Iterator[None]:
    """Report a file that may not be read, with what has been found already."""
    try:
        yield
    except PermissionError as error:
        raise UserError([*wrong, f"{error.filename}: cannot be read: {error.strerror}"]) from None


def _cache(recipe: Recipe, prepared: Path | None) -> list[str]:
    """Why what is missing in the cache cannot be brought there: a cache that has everything may be read-only."""
    return writable_folders.cache() if prepared is None or hub.missing(recipe) else []


def _plan(
    recipe: Recipe,
    file: str,
    overrides: tuple[str, ...],
    cluster: Cluster,
    ranks: int | None,
    found: Sequence[str],
) -> tuple[str, plan.Plan]:
    """The identity of the recipe's data, and the plan, with the facts where they are prepared. `found`: mistakes that
    have been found already. Raises UserError."""
    identity, wrong = "", list[str | Problem](found)
    try:
        identity = prepared_data.identity(recipe)
    except UserError as error:
        wrong += error.problems
    wrong += (missing := checkpoint_references.missing(recipe, bool(_folder(recipe).whole())))
    prepared = prepared_data.find(identity) if identity and not missing else None
    if identity and prepared is None and not missing:
        wrong += source_preview.problems(recipe)
    if cluster.scratch.shared is None or "LAUNCHER_CACHE" in os.environ:  # else that folder is created at submission
        wrong += _cache(recipe, prepared)
    known = _known(recipe, prepared) if prepared else None
    return identity, plan.make(
        recipe, cluster, file=file, ranks=ranks, facts=known, prepared=prepared, overrides=overrides, wrong=wrong
    )


def _known(recipe: Recipe, prepared: Path) -> facts.Facts:
    """The facts of a prepared folder, with the ids of the tokens that the recipe names. Raises UserError."""
    known = facts.read(prepared)
    task = plugins.task(recipe.task)
    task.check(recipe.task, known, prepared)
    inner = plugins.task(recipe.inner_task)
    named = inner.tokens(recipe.inner_task)
    if not named:
        return known
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(prepared / "tokenizer" / "tokenizer.json"))
    ids = {token: backend.token_to_id(token) for token in named}
    problems = [
        Problem("task.never", f"{token!r} is not in the vocabulary ({_close(token, backend.get_vocab())})")
        for token, number in ids.items()
        if number is None
    ]
    if problems:
        raise UserError(problems)
    return known.model_copy(update={"token_ids": ids})


def _close(token: str, known: Iterable[str]) -> str:
    found = hint(token, known)
    return found if found.startswith("did") else "its tokens stand in tokenizer.json"


def _folder(recipe: Recipe) -> RunDir:
    return RunDir(plan.RUNS / recipe.name)


def _pin(recipe: Recipe, strict: bool = True) -> Recipe:
    """The recipe with what must not change between a start and a resume: commits of the hub, steps of other runs."""
    folder = _folder(recipe)
    return checkpoint_references.pin(hub.pin(recipe, folder, strict), folder)


def _check(
    recipe: Recipe,
    file: str,
    overrides: tuple[str, ...],
    cluster: Cluster,
    ranks: int | None,
    wrong: Sequence[str],
) -> PreparedRun:
    recipe = _pin(recipe)
    identity, made = _plan(recipe, file, overrides, cluster, ranks, wrong)  # mistakes: before the data is touched
    hub.fetch(recipe)
    prepared = prepared_data.prepare(recipe, identity)
    known = _known(recipe, prepared)
    if made.prepared is None:
        options: dict[str, Any] = {"file": file, "ranks": ranks, "overrides": overrides}
        made = plan.make(recipe, cluster, facts=known, prepared=prepared, **options)
    folder = RunDir(Path(made.folder))
    return PreparedRun(recipe, cluster, known, made, folder, prepared, _resume(folder, known), made.notes)


def read(folder: Path) -> PreparedRun:
    """A run folder that `write` wrote, as the ranks read it. What it resumes from is told by the rank that holds it.
    Raises UserError, also for a damaged file."""
    run = RunDir(folder)
    made = strict_json.read(run.plan, plan.Plan, "launcher run writes it again")
    known = facts.of_run(folder)
    recipe, cluster = load.checked(run.recipe).value, load.checked_cluster(run.cluster).value
    return PreparedRun(recipe, cluster, known, made, run, cache.path(known.digest), None, made.notes)


def reopen(folder: Path, ranks: int | None, wrong: Sequence[str] = ()) -> PreparedRun:
    """A run that was trained before, as it would run here now: for evaluation. Nothing is written. `wrong`: what has
    been found already."""
    run = RunDir(folder)
    if not run.recipe.is_file():
        raise UserError(f"{folder}: no run is there (it has no recipe.yaml)")
    loaded = load.stored(run.recipe)
    try:
        cluster = load.cluster("local").value
        recipe = layout.runnable(loaded.value, ranks or topology.count(cluster))
        wrong = [*wrong, *writable_folders.ranks(recipe, cluster, ranks)]
        checked = _check(recipe, str(run.recipe), (), cluster, ranks, wrong)
    except UserError as error:
        raise loaded.located(error) from None
    return replace(checked, folder=run, plan=checked.plan.model_copy(update={"folder": str(folder)}))


def hold(folder: RunDir, name: str = ".writer") -> lease.Lease:
    """The right to write into a run folder, on whichever machine it is seen, until released or its holder dies; a later
    start of the same job takes it. Raises UserError where it is held, lease.LeaseLost where by a later start."""
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        return lease.claim(folder.path, name)
    except lease.LeaseHeld as held:
        what = f"{folder.path}: a run is writing into it now, {held}"
        raise UserError(f"{what} (wait for it, or choose another name)") from None


def _resume(folder: RunDir, known: facts.Facts) -> SavedCheckpoint | None:
    """The newest whole checkpoint, verified."""
    whole = folder.whole()
    if not whole:
        return None
    whole[-1].verify()
    if whole[-1].state.get("data") != known.digest:
        why = "its source has changed since, or another version of the launcher prepared it"
        what = f"{folder.path} was trained on other prepared data: {why} (choose another name)"
        raise UserError(Problem("data", what))
    return whole[-1]


def _write(run: PreparedRun) -> None:
    folder = run.folder
    folder.checkpoints.mkdir(exist_ok=True)
    folder.logs.mkdir(exist_ok=True)
    load.dump(run.recipe, folder.recipe)
    load.dump(run.cluster, folder.cluster)
    write_file(folder.plan, run.plan.model_dump_json(indent=1))
    write_file(folder.facts, run.facts.model_dump_json(indent=1))
    write_file(folder.path / "environment.json", json.dumps(environment(), indent=1))
    if not folder.whole():  # what an earlier start left before it had saved anything may be of another recipe
        shutil.rmtree(folder.tokenizer, ignore_errors=True)
        shutil.rmtree(folder.model, ignore_errors=True)
    if not folder.tokenizer.is_dir() and (run.prepared / "tokenizer").is_dir():
        aside = folder.path / ".tokenizer.partial"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(run.prepared / "tokenizer", aside)
        aside.rename(folder.tokenizer)


def environment() -> dict[str, Any]:
    """Versions, host and git commit. No variables of the environment: they hold secrets."""
    tool = shutil.which("git")
    git = subprocess.run([tool, "rev-parse", "HEAD"], capture_output=True, text=True, check=False) if tool else None
    versions = {}
    for name in _TOLD:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "git": (git.stdout.strip() if git else "") or None,
        "versions": versions,
    }
