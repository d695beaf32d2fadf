"""`launcher submit`: plan, prepare, write the run folder, and submit a job to the scheduler of a cluster profile.

The scheduler validates the job before anything is prepared or written. So a refused job leaves nothing behind.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from launcher.config import env_vars, load, paths, plugins
from launcher.config.atomic_files import write
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.format import plural
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.config.strict_json import DamagedFile
from launcher.plan.plan import Plan
from launcher.prepare import run_setup
from launcher.schedulers import JobRefused, JobRequest, RenderedJob, Scheduler
from launcher.storage import job_log, sound_checkpoints
from launcher.storage.run_dir import RunDir, over
from launcher.tools import job_scheduler, sweep_grid, tables
from launcher.tools.status import run_status

_MAX_REQUEUES = "max_requeues"


@dataclass(frozen=True)
class _Sweep:
    """The runs of one job. A single run is a sweep of one run, which is no array."""

    profile: Cluster
    name: str
    points: list[Loaded[Recipe]]
    """Recipe of each run."""
    is_array: bool

    @property
    def scheduler(self) -> Scheduler[RenderedJob]:
        return plugins.scheduler(self.profile.scheduler)

    @property
    def folder(self) -> RunDir:
        """Folder of the job's script."""
        return RunDir(paths.RUNS / self.name)

    def render(self, first: Plan, points: Sequence[int]) -> RenderedJob:
        """Return the job of these points. `first`: the plan of the first run."""
        request = JobRequest(
            plan=first.model_copy(update={"name": self.name, "folder": str(self.folder.path)}),
            cluster=self.profile,
            working_directory=_working_directory(),
            cache=_cache(self.profile),
            number=1 + len(list(self.folder.jobs.glob(paths.submitted_script("*")))),
            points=points if self.is_array else None,
        )
        return self.scheduler.render(request)


def submit(recipe: Loaded[Recipe], profile: Cluster, grid: Path | None, dry_run: bool, console: Console) -> None:
    """Submit a run or, with a `grid` file, one job array with a run for each point. `dry_run`: only print the job.
    Raises UserError."""
    sweep = _sweep(recipe, profile, grid)
    plans = sweep_grid.map_points(sweep.points, lambda point: run_setup.dry_run(point, profile, None))
    job = sweep.render(plans[0], range(len(plans)))
    tables.print_plan(plans[0], console)
    lines = [f"the first of {plural(len(plans), 'run')} of {grid}"] if sweep.is_array else []
    for line in [*lines, *sweep.scheduler.notes()]:
        console.print(line, highlight=False, markup=False)
    if dry_run:
        print(job, end="")
        return
    points = [i for i, planned in enumerate(plans) if not _is_done(planned)]
    if not points:
        return
    for i in points:
        _refuse_alive(RunDir(Path(plans[i].folder)))
    if answer := _validated(sweep, sweep.render(plans[0], points)):
        console.print(answer, highlight=False, markup=False, soft_wrap=True)
    _use_shared_cache(profile)
    _submit(sweep, points, plans[0])


def submit_array(
    name: str, runs: Sequence[Loaded[Recipe]], points: Sequence[int], profile: Cluster, console: Console
) -> None:
    """Submit some runs as one job array. `runs`: recipes of all runs, whose names are `name` with -0, -1 and so on;
    `points`: indices of those to submit. Raises UserError."""
    sweep = _Sweep(profile, name, list(runs), is_array=True)
    first = run_setup.dry_run(runs[points[0]], profile, None)
    for line in sweep.scheduler.notes():
        console.print(line, highlight=False, markup=False)
    if answer := _validated(sweep, sweep.render(first, points)):
        console.print(answer, highlight=False, markup=False, soft_wrap=True)
    _use_shared_cache(profile)
    _submit(sweep, points, first)


def _sweep(recipe: Loaded[Recipe], profile: Cluster, grid: Path | None) -> _Sweep:
    """Return the runs to submit. Raises UserError for a profile or a recipe that cannot be submitted."""
    if grid is not None and not plugins.scheduler(profile.scheduler).supports_arrays:
        raise UserError(f"--grid: a cluster of kind {profile.kind} has no job arrays (submit each run by itself)")
    known = recipe.value
    if known.seeds > 1:
        raise UserError(f"seeds: {known.seeds}, and a job trains one (--grid FILE, with seed: [1, 2, 3] in it)")
    if grid is None:
        return _Sweep(profile, known.name, [recipe], is_array=False)
    points = sweep_grid.map_points(sweep_grid.read(grid, known.name), lambda own: recipe.override(*own))
    return _Sweep(profile, known.name, points, is_array=True)


def load_profile(
    file: str | None, overrides: Sequence[str], max_requeues: int | None = None
) -> tuple[Cluster, list[str]]:
    """Load the profile to submit to. Returns it with the overrides of the recipe.

    `max_requeues`: overrides the scheduler's key of this name. Raises UserError, also for a profile without a queue,
    and for a scheduler without this key.
    """
    if file is None:
        raise missing_cluster()
    profile, of_recipe = load.profile(file, overrides)
    check_queue(profile)
    if max_requeues is None:
        return plugins.scheduler(profile.scheduler).complete(profile), of_recipe
    if _MAX_REQUEUES not in type(profile.scheduler).model_fields:
        what = f"a cluster of kind {profile.kind} has no key {profile.section}.{_MAX_REQUEUES}"
        raise UserError(f"--max-requeues: {what} (leave it out)")
    profile, of_recipe = load.profile(file, [*overrides, f"cluster.{profile.section}.{_MAX_REQUEUES}={max_requeues}"])
    return plugins.scheduler(profile.scheduler).complete(profile), of_recipe


def check_queue(profile: Cluster) -> None:
    """Raise UserError for a profile without a queue."""
    if not plugins.is_queued(profile.scheduler):
        what = f"--cluster {profile.reference}: of kind {profile.kind}, where there is no queue"
        raise UserError(f"{what} (launcher run trains there; {_queues()})")


def missing_cluster() -> UserError:
    """Return the error for a call without --cluster."""
    return UserError(f"--cluster: missing ({_queues()})")


def _queues() -> str:
    """Return a text about the profiles with a queue: shipped ones, and those in the current folder or in ./cluster."""
    own = [file for folder in (Path(), Path("cluster")) for file in sorted(folder.glob("*.yaml"))]
    names = {file.resolve(): str(file) for file in own} | {file: file.stem for file in load.shipped("cluster")}
    kinds = {name: kind for file, name in names.items() if (kind := _queued_kind(file))}
    return f"of kind {' or '.join(dict.fromkeys(kinds.values()))} there are: {', '.join(kinds)}"


def _queued_kind(file: Path) -> str | None:
    """Return the kind of a profile; None: it has no queue."""
    try:
        profile = load.cluster(file).value
    except UserError:  # it may be a recipe
        return None
    return profile.kind if plugins.is_queued(profile.scheduler) else None


def _cache(profile: Cluster) -> Path:
    """Return the folder in which nodes look for prepared data.

    It is $LAUNCHER_CACHE, else that of the profile, else that in the home folder.
    """
    shared = profile.scratch.shared
    return (paths.cache() if shared is None or env_vars.CACHE in os.environ else Path(shared)).absolute()


def _use_shared_cache(profile: Cluster) -> None:
    """Make this process prepare data in the folder in which nodes look for it. Raises UserError if this process cannot
    create it."""
    folder = _cache(profile)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"--cluster {profile.reference}: scratch.shared: {folder}: cannot be written from here: {error.strerror}"
        raise UserError(f"{what} (or set LAUNCHER_CACHE)") from None
    os.environ[env_vars.CACHE] = str(folder)


def _working_directory() -> Path:
    """Return the current folder, by the name by which it was entered. Nodes that mount disks on demand know this
    name."""
    named = Path(os.environ.get("PWD", ""))
    return named if named.is_absolute() and named.is_dir() and named.samefile(Path.cwd()) else Path.cwd()


def _is_done(planned: Plan) -> bool:
    """Return whether all steps of a run are trained. If so, print it."""
    try:
        why = over(sound_checkpoints.resumable(RunDir(Path(planned.folder)), planned.steps), planned.steps)
    except DamagedFile:  # reported when the checkpoint is verified
        return False
    if why:
        print(f"{planned.folder}: {why}")
    return why is not None


def _refuse_alive(folder: RunDir) -> None:
    """Raise UserError if a job of this run is pending or running. Of its chained jobs only the last two are checked,
    because earlier ones have ended."""
    job = run_status.newest_scheduled_job(folder)
    if job is None:
        return
    scheduler = job_scheduler.of(folder, job)
    for id in job.ids[-2:]:
        state = scheduler.state(id, folder.path)
        if state is not None and state.alive:
            what = f"{folder.path}: job {id} is {state.state.lower() or state.phase}"
            raise UserError(f"{what} (launcher cancel {folder.path} ends it, launcher status {folder.path} shows it)")


def _validated(sweep: _Sweep, job: RenderedJob) -> str:
    """Return the scheduler's answer to a job. Raises UserError if it refuses the job."""
    try:
        return sweep.scheduler.validate(job)
    except JobRefused as refused:
        raise UserError(f"{refused} (--cluster {sweep.profile.reference})") from None


def _submit(sweep: _Sweep, points: Sequence[int], first: Plan) -> None:
    """Prepare, write, submit and record the runs. `first`: the plan of the first run."""
    runs, fresh = list[run_setup.PreparedRun](), list[Path]()
    try:
        for i in points:
            runs.append(_prepare(sweep, i, fresh))
        if not sweep.folder.path.exists():
            fresh.append(sweep.folder.path)
        job = sweep.render(first, points)
        if sweep.is_array:
            _write_index(sweep, points, runs)
        submitted = sweep.scheduler.submit(job)
    except BaseException:
        for run in runs:
            run.release()
        for folder in fresh:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    script = "" if job.file is None else str(job.file.relative_to(_working_directory()))
    event = {
        "event": "submitted", "cluster": sweep.profile.name, "scheduler": sweep.profile.kind,
        "options": job_scheduler.options(sweep.profile.scheduler), "script": script,
    }  # fmt: skip
    for i, run in zip(points, runs, strict=True):
        id = sweep.scheduler.task_id(submitted.id, i) if sweep.is_array else submitted.id
        job_log.append(run.folder, {**event, "job": job.name or id, "id": id})
        run.release()
    log = sweep.folder.job_output(submitted.id)
    if sweep.is_array:
        log = RunDir(Path(f"{sweep.folder.path}-*")).job_output(sweep.scheduler.task_id(submitted.id, "*"))
    print(f"job {submitted.id}: {', '.join(filter(None, (script, str(log))))}")


def _write_index(sweep: _Sweep, points: Sequence[int], runs: Sequence[run_setup.PreparedRun]) -> None:
    """Write sweep.json, which contains the overrides of each run by its name."""
    overrides = {
        run.folder.path.name: list(map(str, sweep.points[i].overrides)) for i, run in zip(points, runs, strict=True)
    }
    sweep.folder.path.mkdir(parents=True, exist_ok=True)
    write(sweep.folder.path / "sweep.json", json.dumps({"name": sweep.name, "runs": overrides}, indent=1))


def _prepare(sweep: _Sweep, point: int, fresh: list[Path]) -> run_setup.PreparedRun:
    """Prepare a run, write its folder, and return it with the right to start it.

    The right is acquired before the check for living jobs, because another submission may have started one in the
    meantime. A new folder is added to `fresh`. Raises UserError if a job of the run is pending or running.
    """
    checked = run_setup.validate(sweep.points[point], sweep.profile, None)
    exists = checked.folder.path.exists()
    with run_setup.hold(checked.folder, ".start"):
        if not exists and not checked.folder.plan.is_file():
            fresh.append(checked.folder.path)
        _refuse_alive(checked.folder)
        return run_setup.create(checked)  # takes over the right
