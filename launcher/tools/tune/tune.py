"""`launcher tune`: measure settings of a recipe on this machine's devices, and keep the fastest that fits.

Only keys that never change the trajectory are varied. The ranks stay alive between settings; after a setting that ends
them, as for want of memory, they are started again and go on with the next one.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from launcher.config import load
from launcher.config.atomic_files import write
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.config.training import seconds
from launcher.config.types import JsonObject
from launcher.launch import execute, launch_spec
from launcher.plan import topology, writable_folders
from launcher.plan.plan import Plan
from launcher.prepare import run_setup
from launcher.storage.run_dir import RunDir
from launcher.tools import folds, local_start
from launcher.tools.parity import TOLERANCE
from launcher.tools.tune import space as spaces
from launcher.tools.tune import table, tuned_file
from launcher.tools.tune.progress import following
from launcher.tuning import journal, search
from launcher.tuning.journal import ENDED, Measured
from launcher.tuning.results import Result, Results
from launcher.tuning.setting import KEYS, Setting

_MOST_STARTS = 10
"""Maximum number of times that the ranks are started."""
_LEAST_SECONDS = 10
_ADVICE = "the fastest setting is kept there: repair that, or tune in another folder"


@dataclass(frozen=True)
class Kept:
    """What became of the tuned file. `file`: that was written; None: no setting is worth one. `removed`: an earlier
    file was removed. `problem`: why the file could not be written or removed; empty: it could."""

    file: Path | None = None
    removed: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Tuned:
    """The end of a search. `of_file`: the setting in the recipe's file. `kept`: what became of the tuned file."""

    space: search.Space
    results: Results
    plan: Plan
    seconds: float
    of_file: Setting
    kept: Kept

    @property
    def changes(self) -> JsonObject:
        """The keys of the tuned file. Those of the command line are among them, since the file is used without them."""
        return _changes(self.results.best(), self.space.written, self.of_file)


def budget(text: str) -> float:
    """Return the seconds of an option such as `120`, `90s` or `2m`. Raises UserError."""
    with suppress(ValueError):
        found = int(text) if text.isdigit() else seconds(text)
        if found >= _LEAST_SECONDS:
            return float(found)
    raise UserError(f"--budget {text}: at least {_LEAST_SECONDS} seconds, such as 90, 90s or 2m")


def tune(
    recipe: Loaded[Recipe],
    profile: Cluster,
    ranks: int | None,
    allowed: float,
    console: Console,
    most: int | None = None,
) -> Tuned:
    """Search for the fastest setting, and write it to the tuned file of the recipe and the profile (see `keep`).
    `ranks`: of this machine; `allowed`: seconds; `most`: maximum number of settings. Raises UserError, before anything
    is measured if the file cannot be written."""
    if problems := writable_folders.unusable(tuned_file.of(recipe, profile).parent, "the tuned file", _ADVICE):
        raise UserError(problems)
    of_file = Setting.of(recipe.without(KEYS).value)
    first = folds.each(recipe)[0]
    here, nodes = _here(profile, ranks), profile.nodes[1]
    batch = first.value.train.global_batch // nodes  # the share of this node
    run = _prepared(first.override(*_overrides(batch)), here, ranks)
    begin = time.monotonic()
    space = spaces.of(run, allowed, nodes, TOLERANCE[run.recipe.train.precision][0])
    space = space.model_copy(update={"most": most})
    console.print(f"{spaces.equation(run.plan)}: measuring for up to {allowed:.0f} s", highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="launcher-tune-") as name:
        results = _measure(run, space, Path(name) / "run", console)
    if results.best() is None:
        raise UserError(f"{recipe.file}: the recipe as written cannot be measured: {results.base.wrong}")
    spent = time.monotonic() - begin
    kept = keep(recipe, profile, ranks, of_file, results)
    return Tuned(space, results, run.plan, spent, of_file, kept)


def report(tuned: Tuned, as_json: bool) -> None:
    """Print the result as a table and what was kept, or as JSON. Raises UserError if the tuned file could not be
    written."""
    if as_json:
        print(table.as_json(tuned.space, tuned.results, tuned.kept.file, tuned.changes))
    else:
        console = Console()
        table.show(tuned.space, tuned.results, console)
        console.print(_kept(tuned), highlight=False, soft_wrap=True, markup=False)
    if tuned.kept.problem:
        raise UserError(tuned.kept.problem)


def _kept(tuned: Tuned) -> str:
    """Return what is kept, and how to do without it."""
    took, best = f"({len(tuned.results.found)} settings in {tuned.seconds:.0f} s)", tuned.results.best()
    assert best is not None
    if tuned.changes:
        label = best.setting.label(tuned.of_file)
        if tuned.kept.file is None:
            return f"the fastest: {label} {took}, which is not kept"
        return f"{tuned.kept.file}: {label} {took}; --untuned trains without it"
    if best.setting != tuned.space.written:
        return f"the recipe without the keys of the command line is the fastest {took}: nothing to keep"
    removed = " (the file of an earlier search is removed)" if tuned.kept.removed else ""
    return f"the recipe as written is as fast as all that was tried {took}: nothing to keep{removed}"


def _overrides(batch: int) -> list[str]:
    """Return the overrides of the measured recipe. The ranks train it with a learning rate of zero (see
    launcher.tuning.rank_measurement)."""
    ours = [f"name=tune-{os.getpid()}", "seeds=1", "sinks=[]", "schedule=constant"]
    return [*ours, f"train.global_batch={batch}", "train.on_spike=tell"]


def _here(profile: Cluster, ranks: int | None) -> Cluster:
    """Return the profile for this machine: the ranks of a node, on the devices that the given profile names."""
    if profile.scheduler.on_this_machine:
        return profile
    keys = {"device": profile.device, "memory_per_device": profile.memory_per_device}
    keys |= {"devices_per_node": ranks or profile.devices_per_node}
    here = load.cluster("local", [f"{key}={value}" for key, value in keys.items()]).value
    return here.model_copy(update={"env": profile.env, "interface": profile.interface})


def _prepared(recipe: Loaded[Recipe], cluster: Cluster, ranks: int | None) -> run_setup.PreparedRun:
    """Plan the measured recipe and prepare its data. Raises UserError."""
    problems = local_start.warm_up(recipe.value, cluster, ranks)
    topology.log_notes(cluster)
    return run_setup.validate(recipe, cluster, ranks, problems)


def _measure(run: run_setup.PreparedRun, space: search.Space, folder: Path, console: Console) -> Results:
    """Start the ranks, again after each setting that ends them, until the search is over. Returns its results."""
    files = RunDir(folder)
    planned = run.plan.model_copy(update={"folder": str(folder)})
    run_setup.create(replace(run, plan=planned, folder=files, resume=None, start=None)).release()
    write(folder / search.FILE, space.model_dump_json())
    with following(folder, space, console):
        for _ in range(_MOST_STARTS):
            outcome = execute.execute(launch_spec.tune(planned, run.cluster.env))
            if outcome.result.get("stopped"):
                raise KeyboardInterrupt
            if not outcome.code:
                break
            _record_end(folder, space, outcome.problems)
        else:
            console.print(f"the ranks ended {_MOST_STARTS} times: the rest of the settings is not measured")
    return _replayed(folder, space)


def _record_end(folder: Path, space: search.Space, problems: Sequence[str]) -> None:
    """Record that a setting has ended the ranks. Raises UserError if they ended for another reason."""
    entries = journal.read(folder)
    if not entries or (entries[-1].measured is not None and not entries[-1].measured.wrong):
        raise UserError(problems or "the ranks failed (see above)")
    if entries[-1].measured is None:
        journal.end(folder, Measured(wrong=ENDED, clock=time.time() - space.begun))


def _replayed(folder: Path, space: search.Space) -> Results:
    """Return the results of a search from its journal."""
    results = Results(space.written, space.tolerance)
    wanted = search.trials(space, results)
    with suppress(StopIteration):
        next(wanted)
        for entry in journal.read(folder):
            if entry.measured is not None:
                wanted.send(entry.measured)
    return results


def keep(recipe: Loaded[Recipe], profile: Cluster, ranks: int | None, of_file: Setting, results: Results) -> Kept:
    """Write the fastest setting, as changes of the setting in the recipe's file. If no other than that is worth it,
    remove the file of an earlier search under the same conditions. Nothing is removed if the command line has keys of
    speed, since the recipe's file was then not measured as it is."""
    file, best = tuned_file.of(recipe, profile), results.best()
    now = tuned_file.conditions(recipe.value, profile, ranks)
    written = Setting.of(recipe.value)
    changes = _changes(best, written, of_file)
    try:
        if changes and best is not None:
            tuned_file.save(file, _heading(recipe, results, best), changes, now)
            return Kept(file)
        if written == of_file and tuned_file.measured(file) == now:
            file.unlink()
            return Kept(removed=True)
    except OSError as error:
        return Kept(problem=f"{file}: cannot be written: {error.strerror} ({_ADVICE})")
    return Kept()


def _changes(best: Result | None, written: Setting, of_file: Setting) -> JsonObject:
    """Return the keys to keep: those by which the fastest setting differs from that of the recipe's file; none if it is
    the setting as written, with the keys of the command line."""
    return {} if best is None or best.setting == written else best.setting.changes(of_file)


def _heading(recipe: Loaded[Recipe], results: Results, best: Result) -> str:
    speed = f"{results.tokens_per_second(best):,.0f} tokens/s"
    return (
        f"launcher tune {recipe.file}: {results.ratio(best):.2f} times as fast as the recipe as written ({speed}).\n"
        "launcher run, submit and plan use this file under the same conditions; --untuned ignores it."
    )
