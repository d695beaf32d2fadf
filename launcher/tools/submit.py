"""`launcher submit`: plan, prepare, write the run folder, and hand a batch script to Slurm.

Slurm is asked first what it thinks of the script, before anything is prepared or written: what it refuses leaves
nothing behind.
"""

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from launcher.config import load
from launcher.config.atomic_files import write
from launcher.config.cluster import Cluster, Slurm, time_limit
from launcher.config.errors import UserError
from launcher.config.format import plural
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.config.strict_json import DamagedFile
from launcher.plan import plan
from launcher.plan.plan import Plan
from launcher.plan.run_estimates import duration
from launcher.prepare import run_setup
from launcher.schedulers import slurm_queue, slurm_script
from launcher.schedulers.slurm_script import Script
from launcher.storage import cache_root, job_log
from launcher.storage.run_dir import RunDir, over
from launcher.tools import run_status, sweep_grid, tables


@dataclass(frozen=True)
class _Sweep:
    """What is submitted as one job: the recipe of each of its runs. `place`: where the script is kept. A single run is
    a sweep of one, and no array."""

    profile: Cluster
    name: str
    points: list[Loaded[Recipe]]
    array: bool

    @property
    def place(self) -> RunDir:
        return RunDir(plan.RUNS / self.name)


def submit(recipe: Loaded[Recipe], profile: Cluster, file: Path | None, dry_run: bool, console: Console) -> None:
    """Submit a run, or with a grid `file` a run for each of its points as one job array. `dry_run`: print the script
    alone. Raises UserError."""
    known = recipe.value
    if known.seeds > 1:
        raise UserError(f"seeds: {known.seeds}, and a job trains one (--grid FILE, with seed: [1, 2, 3] in it)")
    own = [[]] if file is None else sweep_grid.read(file, known.name)
    points = sweep_grid.every(own, lambda overrides: recipe.override(*overrides) if overrides else recipe)
    sweep = _Sweep(profile, known.name, points, file is not None)
    plans = sweep_grid.every(points, lambda point: run_setup.look(point, profile, None))
    script = _script(sweep, plans[0], range(len(plans)))
    tables.plan(plans[0], console)
    if sweep.array:
        console.print(f"the first of {plural(len(plans), 'run')} of {file}", highlight=False, markup=False)
    if profile.slurm is not None and (line := longest(profile.slurm)):
        console.print(line, highlight=False, markup=False)
    if dry_run:
        print(script.text, end="")
        return
    open_ = [i for i, made in enumerate(plans) if not _done(made)]
    if not open_:
        return
    for i in open_:
        _refuse_living(RunDir(Path(plans[i].folder)))
    script = _script(sweep, plans[0], open_)
    console.print(f"Slurm: {_tried(script, profile)}", highlight=False, markup=False, soft_wrap=True)
    _share(profile)
    _submit(sweep, open_, plans[0])


def check_queue(profile: Cluster) -> None:
    """Raise UserError for a profile without a queue."""
    if profile.kind != "slurm":
        what = f"--cluster {profile.given}: of kind {profile.kind}, where there is no queue"
        raise UserError(f"{what} (launcher run trains there; {_queues()})")


def missing_cluster() -> UserError:
    """For a call without --cluster."""
    return UserError(f"--cluster: missing ({_queues()})")


def _queues() -> str:
    """The profiles with a queue: those that come with the launcher, and those here and in ./cluster."""
    own = [file for folder in (Path(), Path("cluster")) for file in sorted(folder.glob("*.yaml"))]
    names = {file.resolve(): str(file) for file in own} | {file: file.stem for file in load.shipped("cluster")}
    return f"of kind slurm there are: {', '.join(name for file, name in names.items() if _is_slurm(file))}"


def _is_slurm(file: Path) -> bool:
    try:
        return load.cluster(file).value.kind == "slurm"
    except UserError:  # a recipe, say
        return False


def longest(slurm: Slurm) -> str | None:
    """How long a job and its requeues may take; None for a job that is never requeued."""
    if slurm.requeue == "never" or not slurm.max_requeues:
        return None
    starts = 1 + slurm.max_requeues
    if slurm.time is None or slurm.time.upper() in ("UNLIMITED", "INFINITE"):
        most = "as long as their time limits allow"
    else:
        most = f"{duration(starts * time_limit(slurm.time))} of running time"
    return f"until all steps are done the job may start {starts} times, {most} (--max-requeues)"


def _script(sweep: _Sweep, made: Plan, points: Sequence[int]) -> Script:
    place = sweep.place
    number = 1 + len(list(place.jobs.glob("submit-*.sbatch")))
    own = made.model_copy(update={"name": sweep.name, "folder": str(place.path)})
    return slurm_script.render(
        own, sweep.profile, cwd=_here(), cache=_cache(sweep.profile), number=number,
        points=points if sweep.array else None,
    )  # fmt: skip


def _cache(profile: Cluster) -> Path:
    """Where the nodes look for what is prepared: in $LAUNCHER_CACHE, else in the profile's folder, else at home."""
    shared = profile.scratch.shared
    return (cache_root.root() if shared is None or "LAUNCHER_CACHE" in os.environ else Path(shared)).absolute()


def _share(profile: Cluster) -> None:
    """Have what is prepared go there. Raises UserError where that cannot be written from here."""
    folder = _cache(profile)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"--cluster {profile.given}: scratch.shared: {folder}: cannot be written from here: {error.strerror}"
        raise UserError(f"{what} (or set LAUNCHER_CACHE)") from None
    os.environ["LAUNCHER_CACHE"] = str(folder)


def _here() -> Path:
    """The current folder by the name that it was entered by: where disks are mounted on demand, nodes know that one."""
    named = Path(os.environ.get("PWD", ""))
    return named if named.is_absolute() and named.is_dir() and named.samefile(Path.cwd()) else Path.cwd()


def _done(made: Plan) -> bool:
    """Whether there is nothing left to train, which is said."""
    whole = RunDir(Path(made.folder)).whole()
    try:
        why = over(whole[-1] if whole else None, made.steps)
    except DamagedFile:  # which is reported when it is verified
        return False
    if why:
        print(f"{made.folder}: {why}")
    return why is not None


def _refuse_living(folder: RunDir) -> None:
    """Raises UserError where a job of this run waits or runs. Of a chain only the last two may live."""
    if job := run_status.scheduled(folder):
        for id, known in slurm_queue.jobs(job.ids[-2:]).items():
            found = run_status.mine(known, folder)
            if found is not None and found.living:
                what = f"{folder.path}: job {id} is {found.state.lower()}"
                raise UserError(
                    f"{what} (launcher cancel {folder.path} ends it, launcher status {folder.path} shows it)"
                )


def _tried(script: Script, profile: Cluster) -> str:
    """What Slurm would do with it."""
    try:
        said = slurm_queue.test(script.test, script.text)
    except slurm_queue.SlurmRefusal as refused:
        raise UserError(f"Slurm refuses this job: {refused.said} (--cluster {profile.given})") from None
    return re.sub(r"^Job \d+ to start", "the job is to start", said)  # the number is of the trial, not of the job


def _submit(sweep: _Sweep, points: Sequence[int], first: Plan) -> None:
    """Prepare, write, submit, record. `first`: the plan of a run, which the script is made for."""
    fresh, runs, script = list[Path](), list[run_setup.PreparedRun](), None
    try:
        for i in points:
            runs.append(_begin(sweep, i, fresh))
        if not sweep.place.path.exists():
            fresh.append(sweep.place.path)
        script = _script(sweep, first, points)
        script.path.parent.mkdir(parents=True, exist_ok=True)
        if sweep.array:
            told = {
                made.folder.path.name: list(map(str, sweep.points[i].overrides))
                for i, made in zip(points, runs, strict=True)
            }
            write(sweep.place.path / "sweep.json", json.dumps({"name": sweep.name, "runs": told}, indent=1))
        write(script.path, script.text)
        id = slurm_queue.submit(script.argv)
    except BaseException:
        for made in runs:
            made.release()
        if script is not None:
            script.path.unlink(missing_ok=True)
        for folder in fresh:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    kept = script.path.relative_to(_here())
    for i, made in zip(points, runs, strict=True):
        job = f"{id}_{i}" if sweep.array else id
        job_log.append(
            made.folder, {"event": "submitted", "job": job, "cluster": sweep.profile.name, "script": str(kept)}
        )
        made.release()
    log = f"{sweep.place.path}-*/logs/job-{id}_*.log" if sweep.array else f"{sweep.place.path}/logs/job-{id}.log"
    print(f"job {id}: {kept}, {log}")


def _begin(sweep: _Sweep, point: int, fresh: list[Path]) -> run_setup.PreparedRun:
    """Prepare a point and write its run folder, with the right to start it, which another submit may have had
    meanwhile. A folder that is made goes among the `fresh`. Raises UserError where a job of it lives by now."""
    checked = run_setup.check(sweep.points[point], sweep.profile, None)
    there = checked.folder.path.exists()
    with run_setup.hold(checked.folder, ".start"):
        if not there and not checked.folder.plan.is_file():
            fresh.append(checked.folder.path)
        _refuse_living(checked.folder)
        return run_setup.write(checked)  # which takes the right over
