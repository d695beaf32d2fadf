"""Set up a run before the first rank starts: plan it, prepare its data, check the run folder, and write its files.

Every way to start a run goes through this module, so that each reports the same mistakes and leaves the same files.
"""

import atexit
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.config import env_vars, paths, strict_json
from launcher.config import load as config_files
from launcher.config.cluster import Cluster
from launcher.config.errors import Problem, UserError
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.plan import expectations, facts, layout, plan, topology, writable_folders
from launcher.plan.device_facts import Devices
from launcher.prepare import (
    bundle,
    checkpoint_references,
    hub,
    prepared_data,
    run_folder,
    separate_test,
    source_shards,
    token_ids,
)
from launcher.storage import cache_root, disk_full, lease, sound_checkpoints, stop_file
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir


@dataclass(frozen=True)
class PreparedRun:
    """A run that may start.

    `folder`: the run folder. `prepared`: folder of its data. `resume`: checkpoint to resume from; None: there is none.
    `start`: lease for the right to start the run; None: it is not held. `left_stop`: the file STOP that was there
    before this start.
    """

    recipe: Recipe
    cluster: Cluster
    facts: facts.Facts
    plan: plan.Plan
    folder: RunDir
    prepared: Path
    resume: SavedCheckpoint | None
    notes: list[str]
    start: lease.Lease | None = None
    left_stop: stop_file.Identity | None = None

    def release(self) -> None:
        """Give up the right to start this run."""
        if self.start is not None:
            self.start.release()


@dataclass(frozen=True)
class _Request:
    """A run to plan. `ranks`: requested number on this machine; `folder`: run folder; `trains`: whether the run
    continues in the folder, whose checkpoint, recipe and free disk then matter; False: it is only evaluated. `devices`:
    of a node, if they are decided already."""

    loaded: Loaded[Recipe]
    cluster: Cluster
    ranks: int | None
    folder: RunDir
    trains: bool = True
    devices: Devices | None = None

    @classmethod
    def training(
        cls, loaded: Loaded[Recipe], cluster: Cluster, ranks: int | None, devices: Devices | None = None
    ) -> "_Request":
        """Return the request to train in the folder that the recipe names."""
        return cls(loaded, cluster, ranks, _folder(loaded.value), devices=devices)

    def pinned(self, strict: bool = True) -> Recipe:
        """Return the recipe with pinned commits of the hub and steps of other runs, which a resume must not change."""
        return _pin(self.loaded.value, self.folder, strict)


def dry_run(loaded: Loaded[Recipe], cluster: Cluster, ranks: int | None) -> plan.Plan:
    """Return the plan, with the facts of the data if it is prepared. Nothing is written. Raises UserError."""
    request = _Request.training(loaded, cluster, ranks)
    wrong = [*writable_folders.run(request.folder), *writable_folders.ranks(loaded.value, cluster, ranks)]
    try:
        with _readable(wrong):
            return _plan(request, request.pinned(strict=False), wrong)[1]
    except UserError as error:
        raise loaded.located(error) from None


def hypothetical(loaded: Loaded[Recipe], cluster: Cluster) -> plan.Plan:
    """Return the plan of a run that will not be started, so that its folder may hold the run of another recipe. Raises
    UserError."""
    request = _Request(loaded, cluster, None, _folder(loaded.value), trains=False)
    try:
        with _readable([]):
            return _plan(request, request.pinned(strict=False), [])[1]
    except UserError as error:
        raise loaded.located(error) from None


def pinned(loaded: Loaded[Recipe]) -> Recipe:
    """Return the recipe as a plan resolves it: with pinned commits of the hub and steps of other runs."""
    return _pin(loaded.value, _folder(loaded.value), strict=False)


def prepare(loaded: Loaded[Recipe], processes: int | None = None, to: Path | None = None) -> tuple[Path, facts.Facts]:
    """Prepare the data of a recipe. Returns the prepared folder and its facts. `processes`: maximum number of
    processes; `to`: a bundle to write. Raises UserError."""
    wrong = []
    if to is not None:
        bundle.check_room(to)
        wrong = writable_folders.unusable(to.absolute().parent, f"--to {to}", "name another folder")
    try:
        recipe = _pin(loaded.value, _folder(loaded.value))
        if wrong := [*wrong, *_cache_problems(recipe, prepared_data.find(prepared_data.identity(recipe)))]:
            raise UserError(wrong)
        hub.fetch(recipe)
        prepared, known = separate_test.prepare_all(recipe, None, processes)
        if to is not None:
            bundle.make(recipe, prepared, to, separate_test.folder_of(known, prepared) if known.test_digest else None)
        return prepared, known
    except UserError as error:
        raise loaded.located(error) from None


def validate(
    loaded: Loaded[Recipe],
    cluster: Cluster,
    ranks: int | None,
    wrong: Sequence[str] = (),
    devices: Devices | None = None,
) -> PreparedRun:
    """Plan the run, prepare its data and check its folder, without writing into the folder. `wrong`: mistakes that are
    known already, to report with the others. `devices`: of a node, if they are decided already. Raises UserError."""
    try:
        with _readable(wrong):
            return _validate(_Request.training(loaded, cluster, ranks, devices), wrong)
    except UserError as error:
        raise loaded.located(error) from None


def create(validated: PreparedRun) -> PreparedRun:
    """Write the run folder. The returned run holds the right to start until it is released, or this process ends.
    Raises UserError if another start holds the right, or if a rank still writes."""
    with disk_full.reported(validated.folder.path, kind=UserError):
        run = replace(validated, start=hold(validated.folder, ".start"))
        atexit.register(run.release)
        with hold(run.folder):
            return _write(run)


def _write(run: PreparedRun) -> PreparedRun:
    """Write the files of a run folder, and remove what a killed save or an earlier stop left there."""
    for left in run.folder.half_written():
        shutil.rmtree(left)
    found = [run.folder.mend_metrics(), stop_file.remove(run.folder, run.left_stop)]
    if more := [note for note in found if note]:
        notes = [*run.notes, *more]
        run = replace(run, notes=notes, plan=run.plan.model_copy(update={"notes": [*run.plan.notes, *more]}))
    run_folder.write(run.folder, run.recipe, run.cluster, run.plan, run.facts, run.prepared)
    return run


@contextmanager
def _readable(wrong: Sequence[str]) -> Iterator[None]:
    """Replace a PermissionError in the block by a UserError, together with the mistakes that are known already."""
    try:
        yield
    except PermissionError as error:
        raise UserError([*wrong, f"{error.filename}: cannot be read: {error.strerror}"]) from None


def _cache_problems(recipe: Recipe, prepared: Path | None) -> list[str]:
    """Return the problems of a cache that has to be written. If it has everything, it may be read-only."""
    return writable_folders.cache() if prepared is None or hub.missing(recipe) else []


def _plan(request: _Request, recipe: Recipe, found: Sequence[str]) -> tuple[str, plan.Plan]:
    """Return the identity of a pinned recipe's data, and the plan, with the facts if the data is prepared. `found`:
    mistakes that are known already. Raises UserError."""
    identity, wrong = "", list[str | Problem](found)
    try:
        identity = prepared_data.identity(recipe)
        separate_test.identity(recipe, identity)
    except UserError as error:
        wrong += error.problems
    wrong += (missing := checkpoint_references.missing(recipe, bool(request.folder.whole())))
    prepared = prepared_data.find(identity) if identity and not missing else None
    if identity and prepared is None and not missing:
        wrong += source_shards.preview_problems(recipe)
    if request.cluster.scratch.shared is None or env_vars.CACHE in os.environ:  # else created at submission
        wrong += _cache_problems(recipe, prepared)
    known = separate_test.find(recipe, token_ids.complete(recipe, prepared), prepared) if prepared else None
    return identity, _make_plan(request, recipe, known, prepared, wrong)


def _make_plan(
    request: _Request,
    recipe: Recipe,
    known: facts.Facts | None,
    prepared: Path | None,
    wrong: Sequence[str | Problem] = (),
) -> plan.Plan:
    """Plan a pinned recipe. The plan's command names the file and the overrides that it was loaded from."""
    made = plan.make(
        recipe, request.cluster, file=request.loaded.file, ranks=request.ranks, facts=known, prepared=prepared,
        overrides=request.loaded.overrides, wrong=wrong, folder=request.folder, trains=request.trains,
        devices=request.devices, document=request.loaded.document, remarks=request.loaded.notes,
    )  # fmt: skip
    return expectations.added(made, recipe, request.cluster)


def _folder(recipe: Recipe) -> RunDir:
    return RunDir(paths.RUNS / recipe.name)


def _pin(recipe: Recipe, folder: RunDir, strict: bool = True) -> Recipe:
    """Pin commits of the hub and steps of other runs, which a resume must not change. Raises UserError."""
    return checkpoint_references.pin(hub.pin(recipe, folder, strict), folder)


def _validate(request: _Request, wrong: Sequence[str]) -> PreparedRun:
    left_stop = stop_file.left_before(request.folder)  # a later one is meant for this start
    recipe = request.pinned()
    identity, made = _plan(request, recipe, wrong)  # reports mistakes before data is prepared
    hub.fetch(recipe)
    prepared, known = separate_test.prepare_all(recipe, identity)
    if made.prepared is None or made.held_out != plan.held_out(known):
        made = _make_plan(request, recipe, known, prepared)
    folder = request.folder
    resume = _resume(folder, known, made.steps) if request.trains else None
    return PreparedRun(
        recipe, request.cluster, known, made, folder, prepared, resume, made.remarks, left_stop=left_stop
    )


def load(folder: Path) -> PreparedRun:
    """Load a run from the folder that `create` wrote. `resume` is None: the rank with the right to write finds the
    checkpoint. Raises UserError, also for a damaged file."""
    run = RunDir(folder)
    made = strict_json.read(run.plan, plan.Plan, "launcher run writes it again")
    known = facts.of_run(folder)
    recipe, cluster = config_files.trusted(run.recipe).value, config_files.trusted_cluster(run.cluster).value
    return PreparedRun(recipe, cluster, known, made, run, cache_root.prepared(known.digest), None, made.remarks)


def reopen(folder: Path, ranks: int | None, wrong: Sequence[str] = ()) -> PreparedRun:
    """Load a run that was trained before, for an evaluation on this machine. Nothing is written. `resume` is None,
    since nothing is resumed. `wrong`: mistakes that are known already. Raises UserError."""
    run = RunDir(folder)
    if not run.recipe.is_file():
        raise UserError(f"{folder}: no run is there (it has no recipe.yaml)")
    loaded = config_files.stored(run.recipe)
    try:
        cluster = config_files.local_cluster()
        recipe = layout.runnable(loaded.value, ranks or topology.count(cluster))
        wrong = [*wrong, *writable_folders.ranks(recipe, cluster, ranks)]
        reopened = _validate(_Request(replace(loaded, value=recipe), cluster, ranks, run, trains=False), wrong)
        _check_data(run, facts.of_run(folder).digest, reopened.facts)
    except UserError as error:
        raise loaded.located(error) from None
    return reopened


def hold(folder: RunDir, name: str = ".writer") -> lease.Lease:
    """Acquire the right to write into a run folder, on any machine, until it is released or this process dies. A later
    start of the same job may take it over. Raises UserError if another run holds it, lease.LeaseLost if a later start
    does."""
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        return lease.claim(folder.path, name)
    except lease.LeaseHeld as held:
        what = f"{folder.path}: a run is writing into it now, {held}"
        raise UserError(f"{what} (wait for it, or choose another name)") from None


def _resume(folder: RunDir, known: facts.Facts, steps: int | None) -> SavedCheckpoint | None:
    """Return the checkpoint to resume from; None: there is none. `steps`: of the whole run. Raises UserError for other
    data."""
    saved = sound_checkpoints.resumable(folder, steps)
    if saved is not None:
        _check_data(folder, saved.state.get("data"), known)
    return saved


def _check_data(folder: RunDir, digest: object, known: facts.Facts) -> None:
    """Raise UserError if a run was trained on data with another digest."""
    if digest != known.digest:
        why = "its source has changed since, or another version of the launcher prepared it"
        what = f"{folder.path} was trained on other prepared data: {why} (choose another name)"
        raise UserError(Problem("data", what))
