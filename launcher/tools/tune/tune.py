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
from launcher.launch import execute, launch_spec
from launcher.plan import topology, writable_folders
from launcher.plan.plan import Plan
from launcher.prepare import run_setup
from launcher.storage.run_dir import RunDir
from launcher.tools import folds
from launcher.tools.parity import TOLERANCE
from launcher.tools.tune import space as spaces
from launcher.tools.tune import table, tuned_file
from launcher.tools.tune.progress import following
from launcher.tuning import journal, search
from launcher.tuning.journal import ENDED, Measured
from launcher.tuning.results import Results

_MOST_STARTS = 10
"""Maximum number of times that the ranks are started."""
_LEAST_SECONDS = 10


@dataclass(frozen=True)
class Tuned:
    """The end of a search. `file`: that was written; None: the recipe as written is as fast, and no file is left."""

    space: search.Space
    results: Results
    plan: Plan
    seconds: float
    file: Path | None


def budget(text: str) -> float:
    """Return the seconds of an option such as `120`, `90s` or `2m`. Raises UserError."""
    with suppress(ValueError):
        found = int(text) if text.isdigit() else seconds(text)
        if found >= _LEAST_SECONDS:
            return float(found)
    raise UserError(f"--budget {text}: at least {_LEAST_SECONDS} seconds, such as 90, 90s or 2m")


def tune(recipe: Loaded[Recipe], profile: Cluster, ranks: int | None, allowed: float, console: Console) -> Tuned:
    """Search for the fastest setting, and write it to the tuned file of the recipe and the profile. If no other is
    worth it, an earlier file is removed. `ranks`: of this machine; `allowed`: seconds. Raises UserError."""
    first = folds.each(recipe)[0]
    here, nodes = _here(profile, ranks), profile.nodes[1]
    batch = first.value.train.global_batch // nodes  # the share of this node
    run = _prepared(first.override(*_overrides(batch)), here, ranks)
    begin = time.monotonic()
    space = spaces.of(run, allowed, nodes, TOLERANCE[run.recipe.train.precision][0])
    console.print(f"{spaces.equation(run.plan)}: measuring for up to {allowed:.0f} s", highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="launcher-tune-") as name:
        results = _measure(run, space, Path(name) / "run", console)
    if results.best() is None:
        raise UserError(f"{recipe.file}: the recipe as written cannot be measured: {results.base.wrong}")
    spent = time.monotonic() - begin
    return Tuned(space, results, run.plan, spent, _keep(recipe, profile, ranks, space, results))


def report(tuned: Tuned, as_json: bool) -> None:
    """Print the result as a table and what was kept, or as JSON."""
    if as_json:
        print(table.as_json(tuned.space, tuned.results, tuned.file))
        return
    console = Console()
    table.show(tuned.space, tuned.results, console)
    console.print(_kept(tuned), highlight=False, soft_wrap=True, markup=False)


def _kept(tuned: Tuned) -> str:
    """Return what is kept, and how to do without it."""
    took = f"({len(tuned.results.found)} settings in {tuned.seconds:.0f} s)"
    if tuned.file is None:
        return f"the recipe as written is as fast as all that was tried {took}: nothing to keep"
    best = tuned.results.best()
    assert best is not None
    return f"{tuned.file}: {best.setting.label(tuned.space.written)} {took}; --untuned trains without it"


def _overrides(batch: int) -> list[str]:
    """Return the overrides of the measured recipe. Its learning rate is next to nothing, so that the weights stay as
    they are and the losses of a step can be compared."""
    ours = [f"name=tune-{os.getpid()}", "seeds=1", "sinks=[]", "schedule=constant", "optimizer.lr=1.0e-12"]
    return [*ours, f"train.global_batch={batch}", "train.on_spike=tell"]


def _here(profile: Cluster, ranks: int | None) -> Cluster:
    """Return the profile for this machine: the ranks of a node, on the devices that the given profile names."""
    if profile.scheduler.on_this_machine:
        return profile
    keys = {"device": profile.device, "memory_per_device": profile.memory_per_device}
    keys |= {"devices_per_node": ranks or profile.devices_per_node}
    return load.cluster("local", [f"{key}={value}" for key, value in keys.items()]).value


def _prepared(recipe: Loaded[Recipe], cluster: Cluster, ranks: int | None) -> run_setup.PreparedRun:
    """Plan the measured recipe and prepare its data. Raises UserError."""
    if not (problems := writable_folders.ranks(recipe.value, cluster, ranks)):
        os.environ.update(launch_spec.environment(cluster))  # must come before an import reads it
        execute.warm_up(launch_spec.imports(recipe.value))
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


def _keep(
    recipe: Loaded[Recipe], profile: Cluster, ranks: int | None, space: search.Space, results: Results
) -> Path | None:
    """Write the fastest setting, and return its file. If it is that of the recipe, remove the file of an earlier search
    and return None."""
    file, best = tuned_file.of(recipe, profile), results.best()
    changes = best.setting.changes(space.written) if best is not None else {}
    if best is None or not changes:
        file.unlink(missing_ok=True)
        return None
    speed = f"{results.tokens_per_second(best):,.0f} tokens/s"
    heading = [
        f"launcher tune {recipe.file}: {results.ratio(best):.2f} times as fast as the recipe as written ({speed}).",
        "launcher run, submit and plan use this file under the same conditions; --untuned ignores it.",
    ]
    tuned_file.save(file, "\n".join(heading), changes, tuned_file.conditions(recipe.value, profile, ranks))
    return file
